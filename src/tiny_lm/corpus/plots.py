"""The plots of the built-in stories, as templates.

`[one|other]` is a choice, nested at will, and `{A.his}` a slot. A and B are the children of a story, C a third one;
G is family, N a neighbor; x, y, z are the things of A, B and C; h1 to h4 are places of the setting s to hide and to
look; n, m, k, j, i are numbers. A line `~` is where something else may happen, and a line `A? question / answer`
may be asked of that child at the end. A change here changes stories, and raises `stories.VERSION`.
"""

from tiny_lm.corpus.words import items

OPENINGS = items("""
Once upon a time there were {number} friends, {group}. One {weather} {part} they [went|walked] to {s} [together|to
  play]. {sky}
{day}, {group} [went|walked|hurried] to {s}. {sky}
{P} was {trait.a} {P.child} who loved {s}. {day}, {P.he} went there with {others}. {sky}
"[Hurry up|Come on], {Q}!" [called|shouted] {P}. "[Let us go|We can go] to {s}!" Soon {group} were on their way. {sky}
It was a {weather} {part}. {group} were {s.at}. {sky}
{group} [lived on the same street|were in the same class|were good friends] and met [every day|after lunch]. {day}, they
  met {s.at}. {sky}
""")

SHORT_OPENINGS = items("""
Once upon a time,
[One day|Once|Yesterday],
{day},
""")

MEANWHILE = items("""
[Later|After that], they saw {animal2.a} near the {l4}. [It looked at them and went away.|It did not see them.]
[Later|After that], {N2} came by with {w.a}. "[Good day|Hello], {Q}," said {N2}.
[Later|After that], they sat down and ate some {food2}. {P} sang a [little|funny] song.
Soon it was time to go home. [Their feet were tired.|They waved and said goodbye.]
""")

ASKING = items("""
[That evening|At supper|At bedtime|Back at home], {G} asked {R}, "{question}"
"Tell me about your day, {R}," said {G} [that evening|at supper|at bedtime]. "{question}"
[When the stars came out|When the day was over|Before bed], {G} sat down with {R}. "{question}" {G.he} asked.
""")
ASKING_AGAIN = items("""
Then {G} asked {R}, "{question}"
{G} looked at {R}. "{question}"
"One more thing, {R}," said {G}. "{question}"
""")
ANSWERING = items("""
"{answer}," said {R}.
"{answer}," answered {R}.
{R} smiled. "{answer}," {R.he} said.
""")

CLOSINGS = items("""
It had been a good day.
{G} heard all about it. "[I am glad|What a day that was|I am proud of you]," {G.he} said.
{A} [fell asleep with a smile|slept well that night|dreamed of {s} that night].
And they were [good] friends [ever after|for a long, long time].
[{A} and {B} talked|They talked] about it for {n} days.
""")

# The first line of a plot says who is there from the start.
PLOTS = """
AB
{has} [After a while|Soon|By and by], {A} put the {x} down to [drink some water|tie {A.his} shoe|look at {animal.a}].
  When {A.he} turned around, it was gone!
"[Oh no|Help], my {x.noun}!" cried {A}. {B} [put the {y} away|stopped playing] and came to help. First they looked
  {h1}, but [it was not there|they only found [an old shoe|some leaves|a sleepy cat]]. Then they looked {h2}.
  [Nothing.|There was no {x.noun}.]
[{A} wanted to cry.|A tear ran down {A}'s cheek.|{A} sat down and sighed.] "Do not give up, {A}," said {B}. "We have
  not looked {h3}." {A} ran and looked {h3}, and there was the {x}! {A.He} [hugged it and laughed|jumped for joy|held
  it tight].
~
B? Who lost something today? / {A} did. {A.He} lost {A.his} {x}
A? Where did you find your {x.noun}? / {h3.cap}
A? Who helped you look? / {B} did
A? What did you lose? / My {x}, but I found it again
====
ABC
{has} They played until [noon|they were tired|the bell rang]. Then they ran to [drink some water|eat their lunch|look
  at {animal.a}].
On the way back, {B} found {x.a} {h1}. "[Who lost this|Whose {x.noun} is this]?" {B.he} asked. "It is not mine," said
  {C}. "I have {z.a}, and you have {y.a}, so it must belong to {A}."
They found {A} {h2}. {A.He} [was looking for something|looked sad]. "My {x.noun}!" {A.he} cried. "Where was it?"
  "{h1.cap}," said {B}. {A} was so happy that {A.he} gave {B} [a hug|half of {A.his} lunch|some {food}].
~
A? Who found your {x.noun}? / {B} did. It was {h1}
B? What did you find? / {A}'s {x}
C? Whose {x.noun} did {B} find? / It was {A}'s
B? Where did you find the {x.noun}? / {h1.cap}
====
ABC
{has} "[Let us hide our things|Let us play a hiding game]!" said {P}. {hid} Then they [sang a long song|chased
  {animal.a}|ate {n} {food}].
When it was time to go home, {A} had forgotten where the {x} was. "Is it {h2}?" {A.he} asked. "No," said {B}, "that is
  where I hid my {y.noun}." "Is it {h3}?" "No," said {C}, "my {z.noun} is there."
{A} [thought hard|closed {A.his} eyes and thought|thought for a while]. "Then it must be {h1}!" {A.he} [cried|said].
  And so it was.
A? Where did you hide your {x.noun}? / {h1.cap}
B? Where did you hide your {y.noun}? / {h2.cap}
C? What did you hide? / My {z}. It was {h3}
B? Who forgot where {A.his} {x.noun} was? / {A} did
====
AB
{has} {A} could not stop looking at the {y}. "I like your {y.noun}," {A.he} said. "And I like your {x.noun}," said
  {B}. "[Shall we trade|Do you want to trade]?" {A} nodded. {A.He} gave {B} the {x}, and {B} gave {A} the {y}.
At first both of them were happy. But that night {A} missed the {x}. In the morning {A.he} ran to {B}'s house. "Can I
  have my {x.noun} back?" {A.he} asked. "[Yes, please|Oh, yes]," said {B}, "because I miss my {y.noun}, too."
So they traded again. {A} [took|carried] the {x} home, and {B} kept the {y}.
A? Who has the {x} now? / I do. We traded back
B? What do you have now, the {x.noun} or the {y.noun}? / The {y.noun}. We traded back
B? Who wanted to trade back first? / {A} did. {A.He} missed {A.his} {x.noun}
====
AB
{has} {A} could not stop looking at the {y}. "I like your {y.noun}," {A.he} said. "And I like your {x.noun}," said
  {B}. "[Shall we trade|Do you want to trade]?" {A} nodded. {A.He} gave {B} the {x}, and {B} gave {A} the {y}.
They [played|sat {h1} and played] until the sun went down. "Do you want your {x.noun} back?" asked {B}. {A} shook
  {A.his} head. "A trade is a trade," {A.he} said. "The {x.noun} is yours now, and the {y.noun} is mine." And they
  both went home happy.
A? Who has the {x} now? / {B} does. I have the {y}
B? What do you have now, the {x.noun} or the {y.noun}? / The {x.noun}. I gave the {y.noun} to {A}
B? Who has the {y} now? / {A} does
====
AB
{A} had {n} {food} in a [basket|bag|bowl], and {B} had none. "[Are you hungry|Would you like some]?" asked {A}. {B}
  nodded. {A} gave {B.him} {m} of the {food}. Now {A} had {k} left, because {n} take away {m} is {k}.
[Just then|Suddenly], {animal.a} came [out of nowhere|from behind] and took one of {A}'s {food}. "Now I have only
  {j}," said {A}. {B} laughed and gave {A.him} one of {B.his} own. So {A} had {k} again, and {B} had {i}.
They sat down {h1} and ate [them all up|until there was nothing left]. The {animal} watched them from [far away|a safe
  place].
~
A? How many {food} did you have at first? / {n.cap}
A? How many {food} did you give to {B}? / {m.cap}
B? Who shared {food} with you? / {A} did. {A.He} gave me {m}
A? Who took one of your {food}? / {animal.A} did, so {B} gave me one
====
AB
{has} Then [the sky turned dark and it began to rain|thunder rolled and big drops began to fall]. "[Quick|Run], we
  need a dry place!" [shouted|called] {B}. They ran to {shelter.a}, but {A} left the {x} {h1}.
{animal.A} was sitting inside, [wet and cold|shaking with cold]. {B} dried it with {B.his} sleeve. They [told
  stories|sang songs|counted the drops] until the rain stopped. "Oh no, my {x.noun}!" said {A}. "I left it {h1}!"
They ran back. The {x} was [wet|muddy], but the {y} was dry, because {B} had taken it along. {B} helped {A}
  [dry|clean] the {x.noun}, and [soon|before long] it looked like new.
~
A? Where did you leave your {x.noun}? / {h1.cap}
B? Where did you wait for the rain to stop? / In {shelter.a}
B? Who else was in the {shelter}? / {animal.A}. I dried it with my sleeve
A? What got wet in the rain? / My {x} did, but {B}'s {y} was dry
====
AB
{has} {A} had a secret. {A.He} was afraid of {fear}, and only {B} knew. [Suddenly|All at once], a big bird
  [grabbed|snatched] the {y}, flew away, and dropped it {lair}.
{B} had a sore foot and could not go there. {B.He} began to cry. {A}'s knees shook. "I am afraid of {fear}," {A.he}
  said, "but I will get your {y.noun}." {A.He} took a deep breath and {deed}. {scene} One step, two steps, three
  steps, and {A.he} had it!
"[You did it|You are back]!" cried {B}. "You are the bravest {A.child} I know." [From then on|After that day], {A} was
  no longer afraid of {fear}.
~
A? What were you afraid of? / Of {fear}, but not any more
B? Who got your {y.noun} back? / {A} did. {A.He} {deed}
A? What did you bring back? / {B}'s {y}
B? Where was your {y.noun}? / It was {lair}
====
AB
{B} had {r.a} that {B.he} loved very much. "May I [hold|try] it?" asked {A}. "Yes, but please be careful," said {B}.
  {A} [ran too fast|tripped over a root|was not careful] and dropped the {r.noun}. Crack! The {r.part} came off.
{A} could have hidden it {h1}, but {A.he} did not. "{B}, I broke your {r.noun}," {A.he} said. "I am [very|so] sorry."
  {B} was [sad|quiet] for a moment. "Thank you for telling the truth," {B.he} said.
{A} took the {r} to {N}, who had some {tool}. It took {n} minutes to fix the {r.part}. When {A} brought the {r.noun}
  back, {B} [smiled|laughed]. "It is as good as new," {B.he} said.
~
A? What did you break? / {B}'s {r}, but it is as good as new now
A? How did you fix the {r.noun}? / With {tool}. {N} helped me
B? Who broke your {r.noun}? / {A} did, and {A.he} told me the truth
A? What came off? / The {r.part} of {B}'s {r.noun}
====
AB
{has} "May I borrow your {y.noun}?" asked {A}. "Yes," said {B}, "if you promise to bring it back {due}." "I promise,"
  said {A}. Then {B} went home.
{A} played with the {y} for a long time. Then {C} came along with {z.a}. "Stay and play with me, {A}," said {C}. "You
  can have a turn with my {z.noun}." {A} [wanted to stay|looked at the {z.noun}], but {dusk}. "I must go," {A.he}
  said. "I promised to bring {B} the {y.noun} {due}."
{A} ran [all the way|as fast as {A.he} could]. {B} was waiting at the [door|gate|window]. "You kept your promise!"
  {B.he} said. "[Next time|Tomorrow] you may have it all day."
A? What did you promise? / To bring back {B}'s {y} {due}
B? Who borrowed your {y.noun}? / {A} did, and {A.he} brought it back {due}
A? Who asked you to stay? / {C} did. {C.He} had {z.a}
A? What did {C} have? / {z.A}, but I had to go to {B}
====
AB
{N} [came by|met them] with a big bag. "I have a present for the one who can guess it," {N.he} said. "It is
  {c.color}." {B} guessed first. "Is it {cw.a}?" "No," said {N}. "It {c.does}."
{A} [thought hard|closed {A.his} eyes and thought|thought for a while]. "It is {c.color}, and it {c.does}," {A.he}
  said. "Is it {c.a}?"
"[That is right|Yes, it is]!" said {N} and opened the bag. {A} [got|took] the {c} and let {B} have the first turn.
~
A? What was in the bag? / {c.A}
B? Who guessed right? / {A} did. It was {c.a}
B? What was your guess? / {cw.A}, but that was wrong
A? Who had the bag? / {N} did
====
AB
{N} [came by|met them] with a big bag. "I have a present for the one who can guess it," {N.he} said. "It {c.does}."
  {B} guessed first. "Is it {cu.a}?" "[Almost|Nearly]," said {N}, "but it has the color of {like}."
{A} [thought hard|closed {A.his} eyes and thought|thought for a while]. "Then it is not {cu.color}," {A.he} said. "It
  is {c.a}!"
"[That is right|Yes, it is]!" said {N} and opened the bag. {A} [got|took] the {c} and let {B} have the first turn.
~
A? What was in the bag? / {c.A}
B? Who guessed right? / {A} did. It was {c.a}
B? What was your guess? / {cu.A}, but it was {c.color}
A? Who had the bag? / {N} did
====
ABC
"Let us make {project.a} for {G}," said {P}. {brought} They sat down {h1} and [began|went to work].
[Halfway through|After a while], they ran out of {p2}. "I can get more," said {B} and ran home. {A} and {C} waited and
  [told jokes|counted to a hundred|looked at {animal.a}]. When {B} came back with more {p2}, they finished the
  {project}.
{G} [clapped {G.his} hands|was very happy]. "What a [lovely|beautiful|wonderful] {project}!" {G.he} said. "Thank you,
  {group}."
A? Who brought the {p3}? / {C} did
B? What did you bring? / The {p2}, and then I got some more
C? Who ran home to get more {p2}? / {B} did
C? What did {A} bring? / The {p1}
====
AB
{has} Then {A} heard a [small cry|soft sound] {h1}. It was {animal.a} with {hurt}. "[Poor thing|Do not be afraid],"
  [whispered|said] {A}. {B} held the {animal} still, and {A} {cure}. In a moment, the {animal} was gone.
Later, {A} could not find the {x}. {A.He} looked {h2} and {h3}, but it was not there. Just then the {animal} came
  back. They followed it until it stopped {h4}. There was the {x}! "You helped the {animal}," said {B}, "and now the
  {animal} has helped you."
~
A? What was wrong with the {animal}? / It had {hurt}
A? Who showed you where your {x.noun} was? / The {animal} did
B? Where was {A}'s {x.noun}? / {h4.cap}
B? What did you and {A} find {h1}? / {animal.A} with {hurt}
====
AB
{N} gave each of them a seed. "Water it every day," {N.he} said. {planted}
{A} watered the {c1} pot every [morning|evening]. {B} played with {B.his} {y} and forgot. After {n} days there was
  {c3.a} flower in the {c1} pot, but the {c2} pot was [dry|empty].
{B} [hung {B.his} head|was sad]. "It is not too late," said {A}. "I will help you." From then on they watered the {c2}
  pot together, and {m} days later there was {c4.a} flower in it.
A? What color was your flower? / It was {c3}
A? What color was your pot? / It was {c1}
B? What color was your flower in the end? / It was {c4}. {A} helped me
B? Who forgot to water the seed? / I did, because I played with my {y.noun}
====
AB
{has} "{G} asked me to buy {goods} on the way home," said {A}. They played {h1} for a long time. {A} let {B} try the
  {x}, and {B} let {A} try the {y}.
~
Then they went to the shop. {A} [scratched {A.his} head|stopped at the door]. "I need {g1} and {g3}," {A.he} said,
  "but what was the other thing?" "It was {g2}," said {B}. "You told me {s.at}."
{A} was glad that {B} had listened. They bought the {g1}, the {g3}, and the {g2}, and {A} carried the bag home.
A? What did you buy? / {goods.cap}
A? Did you remember it all? / No, I forgot the {g2}, but {B} remembered
B? What did {A} forget? / The {g2}, but I remembered
====
ABC
"Let us race to the {l1}," said {P}. {N} held up {x.a}. "This is for the winner," {N.he} said. "One, two, three, go!"
{C} was [in front|the fastest], {A} was second, and {B} was last. Then {A} [fell|slipped] and hurt {A.his} {limb}. {C}
  did not look back and won the race. But {B} stopped. "[Are you hurt|Can you stand up], {A}?" {B.he} asked. {B.He}
  helped {A.him} up, and they walked to the {l1} together.
{N} gave the {x} to {C}. But {C} looked at {A}'s {limb} and held out the {x} to {B}. "You should have it," {C.he}
  said. "You stopped to help."
~
A? Who helped you up? / {B} did. I hurt my {limb}
C? Who won the race? / I did, but I gave the {x.noun} to {B}
B? What did {C} give to you? / {x.A}
C? What did {A} hurt? / {A.His} {limb}. {B} helped {A.him}
====
ABC
It was {A}'s birthday. {A.He} was {n} years old. {gave} There was a cake with {n} candles, and {A} blew them all out.
  "[What did you wish for|Did you make a wish]?" asked {C}. "It is a secret," said {A}.
Then {G} came with something behind {G.his} back. It was {x.a}! "That was my wish!" cried {A}.
The next day {A} wrote [two letters|two notes]. "Dear {B}, thank you for the {y.noun}," {A.he} wrote. "Dear {C}, thank
  you for the {z.noun}."
A? How old are you now? / {n.cap}
A? Who gave you the {y.noun}? / {B} did
A? Who gave you the {z}? / {C} did
C? What did you give {A}? / {z.A}
B? What was {A}'s wish? / {x.A}
====
ABC
There was a lot of paint. {painted} They painted [a long fence|flowers and houses|a big picture] until their hands
  were [full of|covered with] paint.
Then {N} came. "Who touched my {clean}?" {N.he} asked. There was {c2.a} handprint on it. {A} held up {A.his} hands.
  They were {c1}. {C} held up {C.his} hands. They were {c3}. Everyone looked at {B}, whose hands were {c2}.
"It was me," said {B}. "I am sorry." {B} got a bucket of water, {A} and {C} helped, and soon the {clean} was clean
  again.
~
A? Who touched the {clean}? / {B} did. The handprint was {c2}
C? What color was your paint? / It was {c3}
B? What color was your paint? / It was {c2}, like the handprint on the {clean}
A? Who had the {c3} paint? / {C} did
====
AB
{N} [was waiting for them|waved to them]. "I left a present for you," {N.he} said. "Go past the {l1}, turn {turn} at
  the {l2}, and look {near} the {l3}." {A} and {B} set off at once.
They went past the {l1} [and {A} sang a song|and saw {animal.a}]. At the {l2} {A} stopped. "Do we turn {other}?"
  {A.he} asked. "No," said {B}, "we turn {turn}." So they turned {turn} and walked on until they saw the {l3}.
{near.cap} the {l3} was {x.a}. "It is good that you listened," said {A}. They took turns with the {x.noun} [all
  day|until dark].
~
A? Where was the present? / {near.cap} the {l3}
B? Which way did you turn at the {l2}? / {turn.cap}
A? What was the present? / {x.A}. It was {near} the {l3}
B? Who left the present for you? / {N} did
"""

# Short plots: A is named first, and in nearly every sentence somebody is named.
SHORT_PLOTS = """
AB
{has} [Then|Soon|But] {A} lost the {x}. {A} [cried|was sad|began to cry]. "I will help you, {A}," said {B}. {A}
  looked {h1}. The {x} was not there. {B} looked {h2}. The {x} was not there. Then {A} looked {h3}, and there was the
  {x}! "I found my {x.noun}, {B}!" [cried|called] {A}. {B} [clapped|was happy for {A}|laughed].
B? Who lost something? / {A} did. {A} lost the {x}
A? Where did you find your {x.noun}? / {h3.cap}
B? Who found the {x.noun}? / {A} did. {A} looked {h3}
====
AB
{A} left the {x} {h1} and forgot it. {B} walked by and saw the {x} {h1}. "This is {A}'s {x.noun}," said {B}. {B}
  took the {x} to {A}. "[Here is|I found] your {x.noun}, {A}," said {B}. "Thank you, {B}," said {A}. {A} [hugged
  {B}|gave {B} some {food}|was glad]. {A} and {B} played with the {x}.
B? Who forgot the {x.noun}? / {A} did. {A} left it {h1}
A? Who found your {x.noun}? / {B} did. {B} found it {h1}
B? What did you find? / {A}'s {x}
====
AB
{has} {A} hid the {x} {h1}. {B} hid the {y} {h2}. Then {A} [ran|went] to look for {B}'s {y.noun}. {A} looked {h3}.
  The {y} was not there. {A} looked {h2}, and there was the {y}! {B} looked {h1} and found the {x}. "You found my
  {x.noun}, {B}!" said {A}. "And you found my {y.noun}, {A}!" said {B}.
B? Where was {A}'s {x.noun}? / {h1.cap}
A? Where was {B}'s {y.noun}? / {h2.cap}
B? Who found your {y.noun}? / {A} did. It was {h2}
B? What did you find {h1}? / {A}'s {x}
====
AB
{has} "I like your {y.noun}, {B}," said {A}. "And I like your {x.noun}, {A}," said {B}. {A} gave {B} the {x}. {B}
  gave {A} the {y}. Now {A} had the {y}, and {B} had the {x}. {A} [took|carried] the {y} home. {B} [took|carried]
  the {x} home.
A? Who has the {x} now? / {B} does. I have the {y}
B? Who has the {y} now? / {A} does. I have the {x}
====
ABC
{A} had {x.a}. {B} and {C} had nothing. {A} gave the {x} to {B}. {B} [played with the {x}|looked at the {x}|liked
  the {x.noun}]. Then {B} gave the {x} to {C}. {C} [played with the {x}|looked at the {x}|liked the {x.noun}].
  "[Thank you for the {x.noun}|I like your {x.noun}], {A}," said {C}. {C} gave the {x} back to {A}, and {A} took the
  {x} home.
B? Whose {x.noun} was it? / {A}'s
B? Who gave you the {x.noun}? / {A} did
C? Who gave you the {x.noun}? / {B} did
B? Who has the {x.noun} now? / {A} does
====
ABC
{group} played hide and seek {s.at}. {C} [counted to {n}|closed {C.his} eyes]. {A} hid {h1}. {B} hid {h2}. {C}
  looked {h3}. Nobody was there. {C} looked {h1}. "I see you, {A}!" [cried|called] {C}. {A} [laughed|jumped up]. {C}
  looked {h2}. "I see you, {B}!" [cried|called] {C}. {B} [laughed|jumped up]. Then it was {A}'s turn, and {B} and
  {C} hid.
A? Where did you hide? / {h1.cap}
B? Where did you hide? / {h2.cap}
C? Who hid {h1}? / {A} did
C? Who hid {h2}? / {B} did
====
AB
{A} had {n} {food}. {B} had no {food}. "Are you hungry, {B}?" asked {A}. "Yes, {A}," said {B}. {A} gave {B} {m}
  {food}. Now {A} had {k} {food}, and {B} had {m} {food}. {A} and {B} sat {h1} and ate the {food}. "Thank you for
  the {food}, {A}," said {B}.
A? How many {food} did you give to {B}? / {m.cap}
B? Who gave you the {food}? / {A} did
A? Where did you eat the {food}? / {h1.cap}
====
AB
{A} saw {animal.a} {h1}. The {animal} had {hurt}. "[Look|Come here], {B}!" called {A}. {B} held the {animal}, and
  {A} {cure}. The {animal} looked at {A}. The {animal} looked at {B}. Then the {animal} [ran|went] away. "We helped
  the {animal}, {A}," said {B}. [The next day|Later], the {animal} came back and brought {A} some {food}.
A? What did you see {h1}? / {animal.A}
A? Who held the {animal}? / {B} did
A? What was wrong with the {animal}? / It had {hurt}
====
ABC
{A} had {x.a}. {B} had {y.a}. {C} had {z.a}. It began to rain. {A} put the {x} {h1}. {B} put the {y} {h2}. {C} held
  the {z}. Then {group} ran home. After the rain, {A} looked {h1} and got the {x}. {B} looked {h2} and got the {y}.
  "My {z.noun} is wet," said {C}. "Here is a towel, {C}," said {A}.
A? Where did you put your {x.noun}? / {h1.cap}
B? Where did you put your {y.noun}? / {h2.cap}
A? Whose {z.noun} got wet? / {C}'s
====
AB
{A} was [sad|ill|alone]. {B} made {r.a} for {A}. {B} [ran|went] to {A}'s house. "This {r.noun} is for you, {A},"
  said {B}. {A} looked at the {r}. "[Thank you|What a nice {r.noun}], {B}," said {A}. {A} [smiled|was not sad any
  more|hugged {B}]. Then {A} and {B} played with the {r} [all day|until dark].
B? What did you make? / {r.A} for {A}
A? Who made the {r.noun}? / {B} did
B? Who has the {r.noun} now? / {A} does
"""

"""The words of the built-in stories: who there is, what they have, where they go, and what may happen to them.

Tables as text: an item a line, continued on indented lines, or after a semicolon; columns between colons. A change here
changes stories, and raises `stories.VERSION`.
"""

import re


def items(block: str) -> list[str]:
    """The items of a block: each on a line of its own, continued on indented lines, or after a semicolon."""
    return [" ".join(item.split()) for item in re.split(r"\n(?! )|; ", block.strip())]


def names(block: str) -> list[str]:
    return block.split()


def table(block: str) -> list[list[str]]:
    return [re.split(r" *: *", item) for item in items(block)]


GIRLS = names("""
Abigail Ada Adele Adriana Agnes Aisha Alba Alice Alicia Alina Alma Amber Amelia Amina Amy Andrea Angela Anita Anna
Annika Antonia Anya April Aria Ariel Asha Astrid Audrey Aurora Aya Ayla Bea Beatrice Belinda Bella Beth Bettina Bianca
Bina Birgit Bonnie Brenda Bridget Britta Camila Candice Cara Carla Carmen Caroline Cassandra Catherine Cecily Celia
Charlotte Chiara Chloe Christina Clara Claudia Cleo Colette Cora Cynthia Dalia Dana Daphne Daria Deborah Delia Denise
Diana Dolores Dora Doris Dorothy Edith Edna Effie Eila Eleanor Elena Elisa Elisabeth Ella Eloise Elsa Emilia Emma
Erica Estelle Esther Etta Eugenia Eva Evelyn Farah Fatima Fay Felicia Fiona Flora Florence Frances Freya Frida
Gabriella Gemma Genevieve Geraldine Gerda Gilda Gina Gloria Greta Gwendolyn Hana Hanna Harriet Hazel Heidi Helen
Henrietta Hilda Ida Ilse Imani Imogen Ina Ines Ingrid Irene Irma Isabel Isla Ivana Ivy Jacqueline Jane Jasmin Jelena
Jenny Jessa Joan Johanna Josephine Joy Juanita Judith Julia June Justine Kaia Kamila Kara Karen Karin Kate Katherine
Keiko Kerstin Kim Kira Klara Kristina Lara Larissa Laura Lavinia Leah Leila Lena Leona Lidia Lillian Lily Linda Lisa
Lorna Lorraine Lotte Louise Lucia Lucy Luna Lydia Mabel Madeleine Magda Maja Malia Mara Marcella Margaret Margot Maria
Marianne Marie Marta Martina Matilda Maya Meera Mei Melissa Mercedes Mia Mildred Milena Mina Miranda Miriam Moira
Molly Mona Monica Muriel Myra Nadia Nancy Naomi Natalie Nell Nicole Nina Nora Octavia Odile Olga Olive Olivia Ophelia
Patricia Paula Penelope Philippa Phoebe Pia Polly Priya Rachel Rana Rebecca Renata Rhea Rina Rita Rosa Rosalind Roxana
Ruth Sabina Sadie Salma Samantha Samira Sandra Sara Selma Sheila Shirley Signe Silvia Simone Sofia Sonja Stella
Stephanie Sue Susan Sybil Tabitha Tamar Tania Tara Tessa Thea Theresa Tilda Tina Tove Ulla Uma Una Ursula Valerie
Vanessa Vera Veronica Victoria Vida Viola Vivian Wanda Wilma Winifred Winnie Yara Yoko Yuki Yvonne Zahra Zara Zelda
Zoe Zora
""")
BOYS = names("""
Aaron Abdul Abel Abram Adam Adolfo Adrian Ahmed Akira Alan Alastair Albert Alejandro Alexander Alfie Alfonso Ali
Alistair Alvin Ambrose Amir Amos Anders Andrew Angus Anthony Anton Archibald Arjun Arne Arthur Asher Aubrey August
Axel Baldwin Barney Bartholomew Basil Ben Benedict Benjamin Benno Bernard Bertrand Bjorn Boris Bradley Brandon Brendan
Brian Bruno Caleb Callum Cameron Carl Carlos Casper Cedric Chen Chester Chris Christopher Clarence Clayton Clement
Clifford Clive Cody Colin Conrad Constantin Cornelius Craig Cuthbert Cyrus Damian Dan Daniel Dario Darius David Dennis
Derek Desmond Diego Dmitri Dominic Donald Douglas Duncan Dwight Dylan Eamon Edgar Edmund Eduardo Edward Edwin Eli
Elias Elliott Elmer Emil Emmanuel Enrique Enzo Eric Ernest Esteban Ethan Eugene Ezra Fabian Farid Felix Ferdinand
Fernando Finn Fletcher Floyd Francis Franklin Fred Frederick Fritz Gabriel Gareth Garrett Gavin Geoffrey George Gerald
Gerard Gideon Gilbert Giles Giovanni Goran Gordon Graham Gregor Gregory Guillermo Gunnar Gustav Hamid Hamish Harold
Harrison Harvey Hassan Hector Heinrich Henry Herman Hiro Homer Horace Howard Hubert Hugh Hugo Humphrey Ian Ibrahim
Igor Imran Isaac Ivan Ivor Jack Jacob Jakob Jamal James Jan Jared Jasper Javier Jeffrey Jeremy Jerome Jim Joaquin Joel
John Jonah Jonas Jorge Jose Joseph Joshua Juan Julian Julius Kaspar Keith Kenji Kenneth Kevin Klaus Kofi Kurt Kyle
Lars Lawrence Lennart Leo Leonard Leopold Lewis Liam Linus Lloyd Logan Lorenzo Louis Luca Lucas Luis Luke Magnus
Malcolm Malik Manuel Marco Marcus Mario Martin Mateo Matthew Maurice Max Maxim Maximilian Melvin Michael Miguel Miles
Milo Mohamed Morris Mortimer Moses Murray Nadir Nathan Nathaniel Ned Neil Nicholas Nigel Niko Nils Noah Norbert Norman
Octavio Oleg Oliver Omar Orson Oscar Oswald Otto Pablo Patrick Paul Pedro Percy Perry Peter Philip Pierre Quinn Rafael
Ralph Ramon Raoul Rashid Ravi Raymond Reginald Reuben Ricardo Richard Roald Robert Roderick Rodney Rodrigo Roger
Roland Roman Ronald Ronan Rory Rudolf Rufus Rupert Russell Salim Sam Samuel Santiago Saul Sebastian Sergei Seth
Sherman Sidney Silas Simon Stanley Stefan Steven Sven Tariq Ted Theo Theodore Thomas Tim Timothy Tobias Todd Tom Tomas
Tony Trevor Tristan Troy Uri Vernon Victor Vikram Viktor Vincent Wade Wallace Walter Warren Wayne Wendell Wesley
Wilfred William Xavier Yann Yasin Yusuf Zachary Zane
""")
# as in life, a few names are much more frequent than the others: 19 of 20 children have one of these
FREQUENT_GIRLS = names("""
Alice Amy Anna Bella Clara Ella Emma Eva Fay Greta Hanna Ivy Jane Julia Kate Lena Lily Lucy Maria Maya Mia Molly Nina
Nora Olive Rosa Ruth Sara Sue Zoe
""")
FREQUENT_BOYS = names("""
Adam Alan Ben Carl Dan David Eric Felix Finn Fred George Henry Hugo Ian Jack Jim John Leo Luke Max Nathan Oscar Paul
Peter Sam Simon Ted Theo Tim Tom
""")
FAMILY = [("Mom", 0), ("Dad", 1), ("Grandma", 0), ("Grandpa", 1), ("Aunt May", 0), ("Uncle Bill", 1)]  # 0 she, 1 he
SURNAMES = names("""
Hill Reed Bell Stone Lake Wood Baker Brown Carter Cook Cooper Fisher Fox Gardner Grant Green Hunt King Lane Marsh
Mason Miller Moss Nash Page Parker Potter Rivers Ross Rowe Sharp Shaw Swift Taylor Turner Vale Walker Weaver West
Young
""")
NEIGHBORS = [(f"{title} {name}", male) for name in SURNAMES for title, male in (("Mrs.", 0), ("Mr.", 1), ("Miss", 0))]

(TRAITS, SIZES, ANIMALS, NUMBERS, FOODS, GOODS, LANDMARKS, SHELTERS, TOOLS, TARGETS) = (
    line.split(", ")
    for line in items("""
kind, brave, clever, careful, cheerful, curious, gentle, patient, quiet, shy, friendly, thoughtful, polite, honest,
  lively, helpful, loyal, proud, playful, silly, merry, calm, wise, daring, generous, sleepy, hungry, dreamy, tidy,
  strong, quick, busy
little, big, old, new, small, shiny
duck, puppy, kitten, rabbit, fox, hen, goat, frog, bird, owl, hedgehog, mouse, lamb, squirrel, crow, turtle, badger,
  cat, chick, goose, heron, lizard, magpie, mole, otter, parrot, pigeon, sparrow, stork, swan, toad, beaver, dove,
  weasel, raven, robin, hamster, ferret
zero, one, two, three, four, five, six, seven, eight, nine, ten, eleven, twelve
apples, pears, plums, cookies, buns, nuts, cherries, berries, peaches, carrots, cakes, grapes, figs, dates, muffins,
  waffles, pancakes, pretzels, raisins, tomatoes, radishes, strawberries, pies, sandwiches, crackers, walnuts,
  almonds, cupcakes, biscuits, oranges, lemons, bananas
bread, milk, butter, flour, salt, honey, rice, soap, jam, cheese, sugar, tea, pepper, cream, oil, yogurt, cocoa, corn,
  ham, spinach, ginger, mustard, cabbage, garlic, lettuce, cinnamon, vinegar, parsley
mill, church, stone bridge, tall pine, red gate, bakery, statue, big rock, duck pond, well, post office, library, fire
  station, school, train station, old oak, bus stop, lighthouse, harbor, chapel, town hall, toy shop, playground,
  castle, museum, hospital, bookshop, stable, orchard, fish market
empty shed, wooden hut, old barn, small cabin, little tent, dry cave, old tower, garden house, deep doorway, old
  boathouse, hollow tree, hay barn, stone arch
glue, tape, string, wire, thread
white door, kitchen wall, new bench, garden gate
""")
)

COLORS = dict(  # and what has that color
    table("""
red: a ripe cherry; blue: the summer sky; green: fresh grass; yellow: a lemon; orange: a carrot; purple: a plum
white: snow; black: coal; brown: chocolate; pink: a little pig; gray: a mouse; silver: the moon
""")
)

THINGS = {  # what it does, and the part that may come off
    noun: (does, part)
    for noun, does, part in table("""
ball: can bounce:; bell: goes ding, dong:; blanket: keeps you warm at night:; boat: floats on the water: sail
book: is full of stories: cover; box: keeps small things safe: lid; basket: carries apples home: handle
bucket: carries water: handle; clock: goes tick, tock: hand; cup: holds warm milk: handle
doll: sleeps in a tiny bed: arm; drum: goes boom, boom, boom: skin; flute: plays sweet songs:
hat: sits on your head: ribbon; key: opens a door:; kite: flies at the end of a string: tail
lamp: glows in the dark: foot; mirror: shows you your own face: frame; pencil: draws lines:
scarf: keeps your neck warm:; spoon: stirs the soup:; top: spins and spins:; wagon: rolls on four wheels: wheel
whistle: makes a high sound:; bottle: holds cold water: cap; bracelet: goes around your arm:
broom: sweeps the floor: handle; brush: paints pictures: handle; candle: burns with a small flame:
coin: buys you something sweet:; comb: tidies your hair:; compass: points to the north: needle
crayon: colors pictures:; fan: cools your face: handle; fork: picks up peas: handle; glove: keeps one hand warm:
guitar: hums when you pluck it:; hammer: hits nails on the head: handle; horn: goes toot, toot:
magnet: picks up pins:; marble: rolls across the floor:; necklace: hangs around your neck:
pen: writes letters: cap; pillow: is soft under your head:; plate: holds your supper:
puppet: dances on your hand: nose; purse: holds money: strap; puzzle: has a hundred pieces: corner
rattle: makes babies laugh: handle; ring: fits on your finger:; robot: walks and says beep: arm
ruler: tells you how long things are:; shell: sounds like the sea:; shovel: digs holes: handle
sled: slides over the snow: seat; sponge: soaks up water:; stamp: sends a letter on its way:
stool: is good to sit on: leg; telescope: shows you the stars: lens; towel: dries your hands:
train: runs on two rails: wheel; trumpet: wakes everybody up:; vase: holds flowers: rim
violin: sings under your chin:
""")
}

# where to go, how to be there, and places to hide and to look
SETTINGS = table("""
the park: in: under the bench, behind the fountain, in the tall grass, beside the swings, under the slide
the beach: at: behind the big rock, under the fishing net, in the sand, beside the pier, behind the white fence
the farm: at: behind the barn, in the hay, under the cart, beside the well, behind the hen house
the woods: in: behind the hollow log, under the ferns, beside the stream, under the pine tree, behind the mossy stump
the garden: in: under the rose bush, behind the shed, beside the pond, under the plum tree, behind the flower pots
the market: at: under the long table, behind the flower cart, beside the fountain, behind the barrels,
  under the stairs
the lake: at: under the little bridge, in the reeds, behind the boat house, beside the willow tree, under the dock
the hill: on: behind the stone wall, under the apple tree, in the long grass, beside the windmill, behind the bushes
the river: at: under the stone bridge, behind the old mill, in the tall reeds, beside the ferry, under the fallen tree
the castle: at: behind the round tower, under the wooden stairs, beside the iron gate, in the moat, behind the throne
the meadow: in: under the oak tree, behind the haystack, in the clover, beside the brook, behind the scarecrow
the harbor: at: behind the lighthouse, under the sail, in the rowing boat, beside the crane, behind the fish boxes
the zoo: at: beside the lion house, behind the monkey tree, under the ticket window, in the straw,
  beside the seal pool
the orchard: in: under the cherry tree, behind the ladder, in the wheelbarrow, beside the beehives,
  under the pear tree
the playground: at: under the seesaw, behind the climbing frame, in the sandbox, beside the tunnel,
  under the rope bridge
the station: at: under the big clock, behind the ticket booth, in the waiting room, beside the tracks,
  behind the suitcases
""")

# the word, and what one sees of it
WEATHER = table("""
sunny: [The sky was blue.|The sun was shining.|There was not a cloud in the sky.]
windy: [The wind shook the trees.|The wind blew hard.|Leaves flew through the air.]
cold: [The air was cold and clear.|They could see their breath.|Their noses turned red.]
warm: [The air was warm and soft.|Bees hummed in the clover.|It was just right for playing outside.]
gray: [Gray clouds hung over the roofs.|The sun hid behind the clouds.|There was no sun, but they did not mind.]
""")

# of what, where the thing lies, what it takes to get it, what that is like
FEARS = table("""
the dark: in a dark cave: walked into the dark cave: It was as black as night in there.
high places: at the top of a tall tree: climbed the tall tree: The ground looked very far away.
big dogs: in a yard with a big dog: walked into the yard: The dog barked, but it only wanted to play.
spiders: in a shed full of spiders: stepped into the shed: A spider sat on every beam.
cows: in a field full of cows: walked into the field: The cows only looked up and chewed.
""")

# what is wrong with the animal, and what helps
HURTS = table("""
a thorn in its foot: pulled out the thorn
its foot under a stone: lifted the stone
its leg caught in a net: cut the net
its head stuck in a jar: pulled off the jar
a string around its leg: untied the string
""")

# by when, and what one sees when it is nearly then
DUE = table("""
before dark: it was getting dark
before supper: it was almost time for supper
before the rain: black clouds were coming
before six o'clock: the clock had just struck half past five
""")

# what to make, and of what
PROJECTS = table("""
kite: paper, string, sticks
birdhouse: wood, nails, paint
cake: eggs, flour, sugar
puppet: wool, buttons, cloth
soup: carrots, onions, beans
lantern: glass, wire, candles
scarecrow: straw, rope, poles
crown: cardboard, glue, feathers
""")

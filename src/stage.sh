# sh src/stage.sh NAME   runs a stage with the code of this tree.
#
# `python` is the one of the activated environment. If it is missing, another Python reports that, and restores the
# outputs of the stage, which DVC has deleted by now.
for python in python python3 .venv/bin/python; do
    if command -v "$python" > /dev/null; then
        PYTHONPATH=src exec "$python" -m tiny_lm.stages "$1"
    fi
done
echo "$1: there is no python; run \`make setup\`, then \`source .venv/bin/activate\` and \`tiny-lm restore $1\`" >&2
exit 127

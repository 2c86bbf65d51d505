# sh src/stage.sh NAME   runs a stage with the code of this tree.
#
# `python` is the one of the activated environment. If there is none, or Python 2, another Python reports that, and
# restores the outputs of the stage, which DVC has deleted by now.
for python in python python3 .venv/bin/python; do
    if "$python" -c 'import sys; sys.exit(sys.version_info < (3, 6))' 2> /dev/null; then
        PYTHONPATH=src exec "$python" -m tiny_lm.stages "$1"
    fi
done
echo "$1: there is no Python 3; run \`make setup\`, then \`source .venv/bin/activate\` and \`tiny-lm restore $1\`" >&2
exit 127

# sh src/stage.sh NAME   runs a stage with the code of this tree.
#
# `python` is normally that of the activated environment. If it is too old or lacks packages, the project's own
# environment runs the stage.
for python in python python3 "${DVC_ROOT:-.}/.venv/bin/python"; do
    if "$python" -c 'import sys, ruamel; sys.exit(sys.version_info < (3, 11))' 2> /dev/null; then
        PYTHONPATH=src exec "$python" -m tiny_lm.stages "$1"
    fi
done
echo "$1: no Python 3.11 or later with the packages of this project: run \`make setup\`, then" \
    "\`source .venv/bin/activate\` and \`tiny-lm restore $1\`, because the outputs of the stage are missing" >&2
exit 127

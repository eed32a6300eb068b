. ../../TEMPLATE/mt1/path.sh
export PYTHONPATH=${PWD}/local${PYTHONPATH:+:${PYTHONPATH}}

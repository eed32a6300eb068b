. ../../TEMPLATE/mt1/path.sh

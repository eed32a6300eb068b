. ../../TEMPLATE/mt1/cmd.sh

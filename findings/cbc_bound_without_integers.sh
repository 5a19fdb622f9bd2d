#!/usr/bin/env bash
# Cbc 2.10.8 through its C interface (Debian 12's coinor-libcbc3 2.10.8+ds1-1)
#
# Cbc_getBestPossibleObjValue is documented as the best known bound on the optimal objective. For a model without integer
# columns Cbc_solve solves the linear program alone, says that it is optimal, and leaves the bound as it was: the largest
# double here, or what the memory held before. With one integer column in the same model the bound is the optimum. Code
# that relaxes a program (all columns continuous) to get a lower bound so gets one above the optimum, or none. We take the
# objective where no column is an integer.
#
# Seen (minimise x + 2 y, x + y >= 3, 0 <= x, y <= 4):
#   no integer column: optimal 1, objective 3, bound 1.79769e+308
#   one integer column: optimal 1, objective 3, bound 3
#
# Needs Debian 12 with gcc, dpkg-deb and `apt-get download`; installs nothing. Exit code 0: as described.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"

for package in cbc3=2.10.8+ds1-1 cbc-dev=2.10.8+ds1-1 cgl1=0.60.3+repack1-4 clp1=1.17.6-3 coinutils3v5=2.11.4+repack1-2 \
               coinutils-dev=2.11.4+repack1-2 osi1v5=0.108.6+repack1-2; do
  apt-get download -qq "coinor-lib$package" 2>/dev/null
done
for package in *.deb; do dpkg-deb -x "$package" .; done
libraries=$(dirname "$(find usr -name 'libCbc.so.3' | head -n 1)")

cat > program.c <<'C'
#include <coin/Cbc_C_Interface.h>
#include <stdio.h>
int main(int argc, char** argv) {
  (void)argv;
  Cbc_Model* model = Cbc_newModel();
  int starts[] = {0, 1, 2}, rows[] = {0, 0};
  double ones[] = {1, 1}, lower[] = {0, 0}, upper[] = {4, 4}, costs[] = {1, 2}, least[] = {3}, most[] = {1e30};
  Cbc_loadProblem(model, 2, 1, starts, rows, ones, lower, upper, costs, least, most);
  if (argc > 1) Cbc_setInteger(model, 0);
  Cbc_setLogLevel(model, 0);
  Cbc_solve(model);
  printf("%s: optimal %d, objective %g, bound %g\n", argc > 1 ? "one integer column" : "no integer column",
         Cbc_isProvenOptimal(model), Cbc_getObjValue(model), Cbc_getBestPossibleObjValue(model));
  Cbc_deleteModel(model);
  return 0;
}
C
gcc program.c -Iusr/include -L"$libraries" -lCbcSolver -lCbc -Wl,--allow-shlib-undefined -o program
relaxed=$(LD_LIBRARY_PATH=$libraries ./program | tail -n 1)
integer=$(LD_LIBRARY_PATH=$libraries ./program one | tail -n 1)
echo "$relaxed"
echo "$integer"
[[ $relaxed == "no integer column: optimal 1, objective 3, bound "* && $relaxed != *"bound 3" ]]
[[ $integer == "one integer column: optimal 1, objective 3, bound 3" ]]

// supervised_program COMMAND: runs a shell command under supervision, as subprocess_test.cpp asks for it.
#include <unistd.h>

#include "base/subprocess.h"

int main(int, char** argv) {
  unigrpo::supervise({.lifeline = 3, .only_child = {}}, [&] {
    execl("/bin/sh", "sh", "-c", argv[1], static_cast<char*>(nullptr));
    return 127;
  });
}

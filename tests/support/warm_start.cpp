// Preloaded into unigrpo-torch, makes it wait in front of main() with everything loaded and initialised, and fork a
// process for each request: tests start ranks by the hundred, and half a second of LibTorch's initialisation each would
// be a third of their time. support/warm_start.py is the other end.
//
// A request is a packet on the socket UNIGRPO_WARM_START: working directory, number of arguments, arguments,
// environment, a NUL after each, with the descriptors of standard output and error. The answer is the process's id. It
// is forked twice, so that it becomes the child of whoever is our nearest subreaper: the test, which waits for it.
#include <dlfcn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

namespace {

using Main = int (*)(int, char**, char**);
Main program = nullptr;

struct Request {
  std::string text;
  std::array<int, 2> outputs{};  // standard output, standard error
};

bool receive(int socket, Request& request) {
  std::vector<char> buffer(size_t{1} << 18);
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof request.outputs)> control{};
  iovec part{buffer.data(), buffer.size()};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  const ssize_t size = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
  const cmsghdr* header = CMSG_FIRSTHDR(&message);
  if (size <= 0 || (message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0 || header == nullptr) return false;
  std::memcpy(request.outputs.data(), CMSG_DATA(header), sizeof request.outputs);
  request.text.assign(buffer.data(), static_cast<size_t>(size));
  return true;
}

[[noreturn]] void become(Request& request) {
  std::vector<char*> words;
  for (size_t at = 0; at < request.text.size(); at += std::strlen(&request.text[at]) + 1)
    words.push_back(&request.text[at]);
  const int argument_count = std::atoi(words[1]);
  std::vector<char*> arguments(words.begin() + 2, words.begin() + 2 + argument_count);
  arguments.push_back(nullptr);
  clearenv();
  for (size_t i = 2 + arguments.size() - 1; i < words.size(); ++i) putenv(words[i]);
  if (chdir(words[0]) != 0) _exit(127);
  for (int i = 0; i < 2; ++i) {
    dup2(request.outputs[static_cast<size_t>(i)], 1 + i);
    close(request.outputs[static_cast<size_t>(i)]);
  }
  std::exit(program(argument_count, arguments.data(), environ));
}

/// The id of the process that serves the request; -1: there is none.
pid_t fork_for(Request& request, int socket) {
  std::array<int, 2> answer{};
  if (pipe(answer.data()) != 0) return -1;
  const pid_t between = fork();
  if (between == 0) {
    const pid_t pid = fork();
    if (pid == 0) {
      for (const int each : {socket, answer[0], answer[1]}) close(each);
      become(request);
    }
    _exit(write(answer[1], &pid, sizeof pid) == sizeof pid ? 0 : 1);
  }
  close(answer[1]);
  pid_t pid = -1;
  if (between < 0 || read(answer[0], &pid, sizeof pid) != sizeof pid) pid = -1;
  close(answer[0]);
  if (between > 0) waitpid(between, nullptr, 0);
  return pid;
}

int serve(int, char**, char**) {
  const int socket = std::atoi(std::getenv("UNIGRPO_WARM_START"));
  dlopen(UNIGRPO_OPENCV_IMGCODECS, RTLD_NOW | RTLD_LOCAL);  // which a process that meets an image loads
  for (Request request; receive(socket, request);) {
    const pid_t pid = fork_for(request, socket);
    for (const int each : request.outputs) close(each);
    if (send(socket, &pid, sizeof pid, MSG_NOSIGNAL) != sizeof pid) break;
  }
  return 0;
}

}  // namespace

extern "C" int __libc_start_main(Main main, int argc, char** argv, void (*init)(), void (*fini)(), void (*rtld_fini)(),
                                 void* stack_end) {
  program = main;
  const auto start = reinterpret_cast<decltype(&__libc_start_main)>(dlsym(RTLD_NEXT, "__libc_start_main"));
  return start(std::getenv("UNIGRPO_WARM_START") == nullptr ? main : serve, argc, argv, init, fini, rtld_fini,
               stack_end);
}

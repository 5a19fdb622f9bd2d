#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "parallel/meeting.h"

namespace unigrpo::test {

/// c10d's flight recorder (2.11) is one for the process and enters a group's status without a lock: threads as ranks,
/// which nobody has outside of tests, race for it. Before main: it is read once.
inline const bool kNoFlightRecorder = setenv("TORCH_FR_BUFFER_SIZE", "0", 1) == 0;

/// A socket that listens on a free port of 127.0.0.1.
struct Listener {
  Listener() : fd(socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof address;
    if (bind(fd, reinterpret_cast<sockaddr*>(&address), length) != 0 || listen(fd, 64) != 0 ||
        getsockname(fd, reinterpret_cast<sockaddr*>(&address), &length) != 0) {
      throw std::runtime_error("no port for a test");
    }
    port = ntohs(address.sin_port);
  }
  int fd;  // goes to the store
  uint16_t port = 0;
};

/// The worlds of `size` ranks that are threads of this process.
inline std::vector<parallel::World> worlds(int64_t size) {
  const Listener listener;
  std::vector<parallel::World> all;
  for (int64_t r = 0; r < size; ++r) {
    parallel::World world;
    world.launched = true;
    world.rank = world.local_rank = r;
    world.size = size;
    world.address = "127.0.0.1";
    world.port = listener.port;
    if (r == 0) world.listen_fd = listener.fd;
    all.push_back(world);
  }
  return all;
}

/// Runs `work` on as many threads; returns what each threw, "" where nothing.
inline std::vector<std::string> run_threads(int64_t size, const std::function<void(int64_t rank)>& work) {
  std::vector<std::string> errors(static_cast<size_t>(size));
  std::vector<std::thread> threads;
  for (int64_t r = 0; r < size; ++r) {
    threads.emplace_back([&, r] {
      try {
        work(r);
      } catch (const std::exception& error) {
        errors[static_cast<size_t>(r)] = error.what();
      }
    });
  }
  for (auto& thread : threads) thread.join();
  return errors;
}

/// The same on ranks that have met.
inline std::vector<std::string> run_ranks(int64_t size, const std::function<void(parallel::Comm&)>& work,
                                          const parallel::Comm::Options& options = {.check_calls = true}) {
  const auto all = worlds(size);
  return run_threads(size, [&](int64_t rank) {
    const auto comm = parallel::meet(all[static_cast<size_t>(rank)], {.same = {}, .failure = {}}, options, {});
    work(*comm);
  });
}

}  // namespace unigrpo::test

// Signals the thread that makes it after each `seconds` of the processor time of that thread.
#pragma once
#include <signal.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

namespace rnnc_emulator {

#ifdef __linux__
#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif

class Watchdog {
 public:
  Watchdog(int signal, double seconds) {
    struct sigevent event = {};
    event.sigev_notify = SIGEV_THREAD_ID;
    event.sigev_signo = signal;
    event.sigev_notify_thread_id = pid_t(syscall(SYS_gettid));
    active_ = timer_create(CLOCK_THREAD_CPUTIME_ID, &event, &timer_) == 0;
    const struct timespec period = {time_t(seconds), long((seconds - double(time_t(seconds))) * 1e9)};
    const struct itimerspec times = {period, period};
    if (active_) timer_settime(timer_, 0, &times, nullptr);
  }
  ~Watchdog() {
    if (active_) timer_delete(timer_);
  }

 private:
  timer_t timer_;
  bool active_;
};
#else
struct Watchdog {  // elsewhere an endless loop is not found
  Watchdog(int, double) {}
};
#endif

}  // namespace rnnc_emulator

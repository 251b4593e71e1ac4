#include "cpu/topology.h"

#include <sched.h>
#include <sys/resource.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "cpu/quota.h"

namespace gptbigcode {
namespace {

std::string read_line(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

// "0-3,8" -> 0 1 2 3 8, the kernel's list format
std::set<int> parse_cpu_list(const std::string& text) {
  std::set<int> cpus;
  std::stringstream stream(text);
  for (std::string range; std::getline(stream, range, ',');) {
    std::istringstream fields(range);
    int first = 0, last = 0;
    char dash = 0;
    if (!(fields >> first)) continue;
    if (!(fields >> dash >> last)) last = first;
    for (int cpu = first; cpu <= last; ++cpu) cpus.insert(cpu);
  }
  return cpus;
}

std::vector<int> affinity() {
  std::vector<int> cpus;
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) == 0) {
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
      if (CPU_ISSET(cpu, &set)) cpus.push_back(cpu);
    }
  }
  if (cpus.empty()) cpus.push_back(0);
  return cpus;
}

int bounded(size_t cpus) {
  const double count = static_cast<double>(std::max<size_t>(1, cpus));
  return std::max(1, static_cast<int>(std::floor(std::min(count, cpu_quota()))));
}

}  // namespace

int64_t involuntary_switches() {
  rusage usage{};
  return getrusage(RUSAGE_SELF, &usage) == 0 ? usage.ru_nivcsw : 0;
}

int available_cpus() { return bounded(affinity().size()); }

int default_num_threads() {
  const std::string sys = "/sys/devices/system/cpu/cpu";
  std::vector<int> cpus = affinity();

  // Hybrid x86: the performance cores have a PMU of their own. Arm big.LITTLE: cpu_capacity tells the big cores.
  const std::set<int> performance = parse_cpu_list(read_line("/sys/devices/cpu_core/cpus"));
  std::vector<int> fast;
  if (!performance.empty()) {
    std::copy_if(cpus.begin(), cpus.end(), std::back_inserter(fast), [&](int cpu) { return performance.contains(cpu); });
  } else {
    std::vector<int> capacity;
    for (const int cpu : cpus) {
      int value = 0;
      std::istringstream(read_line(sys + std::to_string(cpu) + "/cpu_capacity")) >> value;
      capacity.push_back(value);
    }
    const int best = *std::max_element(capacity.begin(), capacity.end());
    for (size_t i = 0; i < cpus.size(); ++i) {
      if (capacity[i] * 5 >= best * 4) fast.push_back(cpus[i]);
    }
  }
  if (!fast.empty()) cpus = fast;

  // Two hyperthreads of one core share its vector units and its path to memory.
  std::set<std::string> cores;
  for (const int cpu : cpus) {
    const std::string siblings = read_line(sys + std::to_string(cpu) + "/topology/thread_siblings_list");
    cores.insert(siblings.empty() ? std::to_string(cpu) : siblings);
  }
  return bounded(cores.size());
}

}  // namespace gptbigcode

// Control groups, as in cgroups(7). /proc/self/cgroup names the group of the process in each hierarchy. /proc/self/mountinfo, see
// proc_pid_mountinfo(5), tells where a hierarchy is mounted, and which of its groups the mount begins with.
#include "cpu/quota.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <sstream>
#include <vector>

namespace gptbigcode {
namespace {

constexpr double kNoLimit = std::numeric_limits<double>::infinity();

// Whether a list such as "cpu,cpuacct" names the controller of CPU time.
bool names_cpu(const std::string& controllers) {
  std::stringstream stream(controllers);
  for (std::string name; std::getline(stream, name, ',');) {
    if (name == "cpu") return true;
  }
  return false;
}

// Where a hierarchy can be read.
struct Mount {
  bool v2;
  std::string root;   // the group whose directory `point` is
  std::string point;  // a directory
};

// In paths of mountinfo, a space or the like is written as a backslash and three octal digits.
std::string unescaped(const std::string& text) {
  std::string result;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '\\' || i + 3 >= text.size()) {
      result += text[i];
      continue;
    }
    result += static_cast<char>((text[i + 1] - '0') * 64 + (text[i + 2] - '0') * 8 + (text[i + 3] - '0'));
    i += 3;
  }
  return result;
}

std::vector<Mount> mounts(const std::string& root) {
  // By convention they are here. Some tools mount them here as well, over what was there before.
  std::vector<Mount> found = {{true, "/", "/sys/fs/cgroup"}, {false, "/", "/sys/fs/cgroup/cpu"}};
  std::ifstream file(root + "/proc/self/mountinfo");
  for (std::string line; std::getline(file, line);) {
    const size_t separator = line.find(" - ");  // optional fields end with it
    if (separator == std::string::npos) continue;
    std::istringstream place(line.substr(0, separator)), kind(line.substr(separator + 3));
    std::string id, parent, device, group, point, type, source, options;
    if (!(place >> id >> parent >> device >> group >> point) || !(kind >> type >> source >> options)) continue;
    if (type == "cgroup2" || (type == "cgroup" && names_cpu(options))) {
      found.push_back({type == "cgroup2", unescaped(group), unescaped(point)});
    }
  }
  return found;
}

// Version 2: "max 100000" or "150000 100000", of which the second is the period.
double quota_v2(const std::string& directory) {
  double quota = 0, period = 0;
  std::ifstream file(directory + "/cpu.max");
  return file >> quota >> period && quota > 0 && period > 0 ? quota / period : kNoLimit;
}

double quota_v1(const std::string& directory) {  // -1: no limit
  double quota = 0, period = 0;
  std::ifstream first(directory + "/cpu.cfs_quota_us"), second(directory + "/cpu.cfs_period_us");
  return first >> quota && second >> period && quota > 0 && period > 0 ? quota / period : kNoLimit;
}

// The path of a group within a mount that begins at `root`: "", or with a slash before each name.
std::string path_in(const std::string& group, const std::string& root) {
  const std::string prefix = root == "/" ? "" : root;
  const bool inside = group.starts_with(prefix) && (group.size() == prefix.size() || group[prefix.size()] == '/');
  // From within another namespace, the mount may not show the group. Then the group it begins with is all there is to see.
  if (!inside || group.find("/..") != std::string::npos) return "";
  return group == "/" ? "" : group.substr(prefix.size());
}

// The process's group in every hierarchy: lines such as "0::/a/b" (version 2) and "4:cpu,cpuacct:/a/b".
std::vector<std::string> groups(const std::string& root) {
  std::vector<std::string> lines;
  std::ifstream file(root + "/proc/self/cgroup");
  for (std::string line; std::getline(file, line);) lines.push_back(line);
  if (lines.empty()) lines = {"0::/", "1:cpu:/"};  // without /proc: the groups at the top of what is mounted
  return lines;
}

}  // namespace

double cpu_quota(const std::string& root) {
  const std::vector<Mount> all = mounts(root);
  double least = kNoLimit;
  for (const std::string& line : groups(root)) {
    const size_t controllers = line.find(':'), path = line.find(':', controllers + 1);
    if (controllers == std::string::npos || path == std::string::npos) continue;
    const bool v2 = line.starts_with("0::");
    if (!v2 && !names_cpu(line.substr(controllers + 1, path - controllers - 1))) continue;
    for (const Mount& mount : all) {
      if (mount.v2 != v2) continue;
      const std::string top = root + mount.point;
      std::string directory = top + path_in(line.substr(path + 1), mount.root);
      for (;;) {
        least = std::min(least, v2 ? quota_v2(directory) : quota_v1(directory));
        if (directory.size() <= top.size()) break;
        directory.resize(directory.rfind('/'));
      }
    }
  }
  return least;
}

}  // namespace gptbigcode

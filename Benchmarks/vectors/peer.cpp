// The peers of Benchmarks/vectors that are C++: an exact scan of a tenant's ids, hnswlib as one shared index with a
// filter, and hnswlib as one index a tenant. Thread CPU time of each query; a pass over the pairs goes before it.
//
//   peer exact          --set FOLDER --access NAME --pairs FOLDER --out PREFIX [--limit N]
//   peer build-shared   --set FOLDER --cache FILE
//   peer shared         --set FOLDER --access NAME --pairs FOLDER --out PREFIX --cache FILE --ef 10,16 [--limit N]
//   peer build-tenants  --set FOLDER --access NAME --cache FOLDER
//   peer tenants        --set FOLDER --access NAME --pairs FOLDER --out PREFIX --cache FOLDER --ef 16,32 [--limit N]
//
// FOLDERs are those of data.py. A search writes
// PREFIX.SETTING.ids.npy (int64 [pairs, 10], −1 where fewer) and PREFIX.SETTING.times.npy (float32 [pairs], µs), and
// prints one JSON object. Compile: g++ -O3 -march=native -std=c++17 -pthread -I HNSWLIB peer.cpp -o peer
#include <malloc.h>
#include <sys/mman.h>
#include <time.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "hnswlib/hnswlib.h"

namespace {

constexpr size_t resultCount = 10;
constexpr size_t M = 16;
constexpr size_t efConstruction = 128;

double cpuSeconds() {
  timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return t.tv_sec + 1e-9 * t.tv_nsec;
}

/// Bytes that malloc has handed out, mapped blocks included.
size_t heapBytes() {
  struct mallinfo2 info = mallinfo2();
  return info.uordblks + info.hblkhd;
}

/// What the clock itself adds to a reading, in nanoseconds: the median of 1,001 pairs of calls.
double clockNanoseconds() {
  std::vector<double> seen(1001);
  for (double& s : seen) {
    double begin = cpuSeconds();
    s = cpuSeconds() - begin;
  }
  std::nth_element(seen.begin(), seen.begin() + 500, seen.end());
  return seen[500] * 1e9;
}

/// A C-ordered array of an npy file, in memory of its own that asks for large pages.
template <class T>
struct Array {
  std::vector<size_t> shape;
  T* data = nullptr;
  size_t count = 0;

  Array(const std::string& path, const char* type) {
    std::ifstream file(path, std::ios::binary);
    char magic[8];
    if (!file.read(magic, 8) || memcmp(magic, "\x93NUMPY", 6) != 0)
      throw std::runtime_error(path + ": not an npy file");
    uint32_t length = 0;
    file.read(reinterpret_cast<char*>(&length), magic[6] == 1 ? 2 : 4);
    std::string header(length, ' ');
    file.read(header.data(), length);
    if (header.find(type) == std::string::npos || header.find("'fortran_order': False") == std::string::npos)
      throw std::runtime_error(path + ": wants " + type + " in C order, has " + header);
    count = 1;
    std::stringstream numbers(header.substr(header.find('(', header.find("'shape'")) + 1));
    for (size_t n; numbers >> n; numbers.ignore(1)) {
      shape.push_back(n);
      count *= n;
    }
    size_t bytes = std::max<size_t>(count * sizeof(T), 1);
    void* mapped = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED) throw std::runtime_error(path + ": no memory for " + std::to_string(bytes) + " bytes");
    madvise(mapped, bytes, MADV_HUGEPAGE);
    data = static_cast<T*>(mapped);
    if (!file.read(reinterpret_cast<char*>(data), count * sizeof(T))) throw std::runtime_error(path + ": too short");
  }
  Array(const Array&) = delete;
};

template <class T>
void writeArray(const std::string& path, const char* type, const std::vector<T>& values, size_t columns) {
  std::string shape = columns ? "(" + std::to_string(values.size() / columns) + ", " + std::to_string(columns) + ")"
                              : "(" + std::to_string(values.size()) + ",)";
  std::string header = std::string("{'descr': '") + type + "', 'fortran_order': False, 'shape': " + shape + ", }";
  header.resize((header.size() + 11 + 63) / 64 * 64 - 11, ' ');
  header += '\n';
  uint16_t length = header.size();
  std::ofstream file(path, std::ios::binary);
  file.write("\x93NUMPY\x01\x00", 8);
  file.write(reinterpret_cast<char*>(&length), 2);
  file << header;
  file.write(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
  if (!file) throw std::runtime_error(path + ": cannot be written");
}

using Options = std::map<std::string, std::string>;

const std::string& option(const Options& options, const std::string& name) {
  auto found = options.find(name);
  if (found == options.end()) throw std::runtime_error("--" + name + " is missing");
  return found->second;
}

/// The vectors of each tenant: ascending row numbers.
struct Members {
  Array<int64_t> indptr;
  Array<uint32_t> ids;
  explicit Members(const std::string& folder)
      : indptr(folder + "/members.indptr.npy", "<i8"), ids(folder + "/members.ids.npy", "<u4") {}
  size_t tenants() const { return indptr.count - 1; }
  const uint32_t* begin(size_t tenant) const { return ids.data + indptr.data[tenant]; }
  const uint32_t* end(size_t tenant) const { return ids.data + indptr.data[tenant + 1]; }
  size_t size(size_t tenant) const { return end(tenant) - begin(tenant); }
};

struct Pairs {
  Array<float> queries;
  Array<int64_t> tenants;
  size_t count, dim;
  Pairs(const std::string& folder, const Options& options)
      : queries(folder + "/queries.npy", "<f4"), tenants(folder + "/tenants.npy", "<i8"), count(tenants.count),
        dim(queries.shape.at(1)) {
    auto limit = options.find("limit");
    if (limit != options.end()) count = std::min<size_t>(count, std::stoul(limit->second));
  }
};

/// Runs `search(query, tenant, ids)` → number of results over all pairs, `warm` of them unmeasured first.
template <class Search>
void measure(const Pairs& pairs, const std::string& prefix, const std::string& setting, size_t warm, Search search) {
  std::vector<int64_t> ids(pairs.count * resultCount, -1);
  std::vector<float> times(pairs.count);
  int64_t scratch[resultCount];
  for (size_t i = 0; i < std::min(warm, pairs.count); i++)
    search(pairs.queries.data + i * pairs.dim, pairs.tenants.data[i], scratch);
  for (size_t i = 0; i < pairs.count; i++) {
    double begin = cpuSeconds();
    search(pairs.queries.data + i * pairs.dim, pairs.tenants.data[i], ids.data() + i * resultCount);
    times[i] = (cpuSeconds() - begin) * 1e6;
  }
  writeArray(prefix + "." + setting + ".ids.npy", "<i8", ids, resultCount);
  writeArray(prefix + "." + setting + ".times.npy", "<f4", times, 0);
}

typedef float Lanes __attribute__((vector_size(64)));

Lanes load(const float* p) {
  Lanes x;
  memcpy(&x, p, sizeof x);
  return x;
}

/// ‖a − b‖² of `dim` floats: four sums of 16 lanes, which the compiler lays on the widest registers it may use.
float squaredDistance(const float* a, const float* b, size_t dim) {
  Lanes s0 = {}, s1 = {}, s2 = {}, s3 = {};
  size_t i = 0;
  for (; i + 64 <= dim; i += 64) {
    Lanes d0 = load(a + i) - load(b + i), d1 = load(a + i + 16) - load(b + i + 16);
    Lanes d2 = load(a + i + 32) - load(b + i + 32), d3 = load(a + i + 48) - load(b + i + 48);
    s0 += d0 * d0;
    s1 += d1 * d1;
    s2 += d2 * d2;
    s3 += d3 * d3;
  }
  s0 += s1 + (s2 + s3);
  float halves[16], sum = 0;
  memcpy(halves, &s0, sizeof halves);
  for (size_t width = 8; width; width /= 2)
    for (size_t j = 0; j < width; j++) halves[j] += halves[j + width];
  sum = halves[0];
  for (; i < dim; i++) sum += (a[i] - b[i]) * (a[i] - b[i]);
  return sum;
}

void exact(const Options& options) {
  Array<float> vectors(option(options, "set") + "/vectors.npy", "<f4");
  Members members(option(options, "set") + "/" + option(options, "access"));
  Pairs pairs(option(options, "pairs"), options);
  size_t dim = pairs.dim;
  std::vector<std::pair<float, uint32_t>> best;
  best.reserve(resultCount);
  measure(pairs, option(options, "out"), "exact", pairs.count, [&](const float* query, size_t tenant, int64_t* out) {
    best.clear();
    const uint32_t *id = members.begin(tenant), *end = members.end(tenant);
    for (; id < end; id++) {
      if (end - id > 4) {
        auto ahead = reinterpret_cast<const char*>(vectors.data + id[4] * dim);
        for (size_t byte = 0; byte < dim * sizeof(float); byte += 64) __builtin_prefetch(ahead + byte);
      }
      std::pair<float, uint32_t> found(squaredDistance(query, vectors.data + *id * dim, dim), *id);
      if (best.size() < resultCount) {
        best.push_back(found);
        std::push_heap(best.begin(), best.end());
      } else if (found < best.front()) {
        std::pop_heap(best.begin(), best.end());
        best.back() = found;
        std::push_heap(best.begin(), best.end());
      }
    }
    std::sort_heap(best.begin(), best.end());
    for (size_t i = 0; i < best.size(); i++) out[i] = best[i].second;
  });
  printf("{\"clock_ns\": %.0f, \"settings\": [\"exact\"]}\n", clockNanoseconds());
}

using Graph = hnswlib::HierarchicalNSW<float>;

/// Allows the ids whose bit is set.
struct BitFilter : hnswlib::BaseFilterFunctor {
  const uint64_t* bits = nullptr;
  bool operator()(hnswlib::labeltype id) override { return bits[id >> 6] >> (id & 63) & 1; }
};

void take(std::priority_queue<std::pair<float, hnswlib::labeltype>> found, int64_t* out) {
  for (size_t i = found.size(); i--; found.pop()) out[i] = found.top().second;
}

std::vector<size_t> efs(const Options& options) {
  std::vector<size_t> values;
  std::stringstream numbers(option(options, "ef"));
  for (size_t n; numbers >> n; numbers.ignore(1)) values.push_back(n);
  return values;
}

void printSearch(const std::vector<size_t>& settings, size_t bytes, size_t lockBytes, size_t bitmapBytes) {
  printf("{\"clock_ns\": %.0f, \"memory\": {\"bytes\": %zu, \"lock_bytes\": %zu, \"bitmap_bytes\": %zu}, ",
         clockNanoseconds(), bytes, lockBytes, bitmapBytes);
  printf("\"settings\": [");
  for (size_t i = 0; i < settings.size(); i++) printf("%s\"ef%zu\"", i ? ", " : "", settings[i]);
  printf("]}\n");
}

void printBuild(double seconds, size_t inserted) {
  printf("{\"cpu_s\": %.3f, \"inserted\": %zu, \"cpu_us\": %.2f, \"m\": %zu, \"ef_construction\": %zu}\n", seconds,
         inserted, seconds * 1e6 / inserted, M, efConstruction);
}

/// The locks by label that every index allocates whatever its size (2.6 MB).
size_t lockTableBytes(const Graph& graph) { return graph.label_op_locks_.size() * sizeof(std::mutex); }

void buildShared(const Options& options) {
  Array<float> vectors(option(options, "set") + "/vectors.npy", "<f4");
  size_t rows = vectors.shape.at(0), dim = vectors.shape.at(1);
  hnswlib::L2Space space(dim);
  Graph graph(&space, rows, M, efConstruction);
  double begin = cpuSeconds();
  for (size_t i = 0; i < rows; i++) graph.addPoint(vectors.data + i * dim, i);
  double seconds = cpuSeconds() - begin;
  graph.saveIndex(option(options, "cache"));
  printBuild(seconds, rows);
}

void searchShared(const Options& options) {
  Members members(option(options, "set") + "/" + option(options, "access"));
  Pairs pairs(option(options, "pairs"), options);
  hnswlib::L2Space space(pairs.dim);
  size_t before = heapBytes();
  Graph graph(&space, option(options, "cache"));
  size_t bytes = heapBytes() - before;
  size_t words = (graph.max_elements_ + 63) / 64;
  std::vector<uint64_t> bits(members.tenants() * words);
  for (size_t tenant = 0; tenant < members.tenants(); tenant++)
    for (auto id = members.begin(tenant); id < members.end(tenant); id++)
      bits[tenant * words + (*id >> 6)] |= uint64_t{1} << (*id & 63);
  BitFilter filter;
  size_t warm = 50;
  for (size_t ef : efs(options)) {
    graph.setEf(ef);
    measure(pairs, option(options, "out"), "ef" + std::to_string(ef), warm,
            [&](const float* query, size_t tenant, int64_t* out) {
              filter.bits = &bits[tenant * words];
              take(graph.searchKnn(query, resultCount, &filter), out);
            });
    warm = 0;
  }
  printSearch(efs(options), bytes, lockTableBytes(graph), bits.size() * sizeof(uint64_t));
}

std::string tenantFile(const Options& options, size_t tenant) {
  return option(options, "cache") + "/" + std::to_string(tenant);
}

void buildTenants(const Options& options) {
  Array<float> vectors(option(options, "set") + "/vectors.npy", "<f4");
  Members members(option(options, "set") + "/" + option(options, "access"));
  size_t dim = vectors.shape.at(1);
  hnswlib::L2Space space(dim);
  double seconds = 0;
  for (size_t tenant = 0; tenant < members.tenants(); tenant++) {
    Graph graph(&space, members.size(tenant), M, efConstruction);
    double begin = cpuSeconds();
    for (auto id = members.begin(tenant); id < members.end(tenant); id++) graph.addPoint(vectors.data + *id * dim, *id);
    seconds += cpuSeconds() - begin;
    graph.saveIndex(tenantFile(options, tenant));
  }
  printBuild(seconds, members.ids.count);
}

void searchTenants(const Options& options) {
  Members members(option(options, "set") + "/" + option(options, "access"));
  Pairs pairs(option(options, "pairs"), options);
  hnswlib::L2Space space(pairs.dim);
  std::vector<std::unique_ptr<Graph>> graphs(members.tenants());
  size_t before = heapBytes(), locks = 0;
  for (size_t tenant = 0; tenant < graphs.size(); tenant++) {
    graphs[tenant] = std::make_unique<Graph>(&space, tenantFile(options, tenant));
    locks += lockTableBytes(*graphs[tenant]);
  }
  size_t bytes = heapBytes() - before;
  size_t warm = pairs.count;
  for (size_t ef : efs(options)) {
    for (auto& graph : graphs) graph->setEf(ef);
    measure(pairs, option(options, "out"), "ef" + std::to_string(ef), warm,
            [&](const float* query, size_t tenant, int64_t* out) {
              take(graphs[tenant]->searchKnn(query, resultCount), out);
            });
    warm = 0;
  }
  printSearch(efs(options), bytes, locks, 0);
}

}  // namespace

int main(int count, char** words) {
  const std::map<std::string, void (*)(const Options&)> commands = {{"exact", exact},
                                                                    {"build-shared", buildShared},
                                                                    {"shared", searchShared},
                                                                    {"build-tenants", buildTenants},
                                                                    {"tenants", searchTenants}};
  auto command = commands.find(count > 1 ? words[1] : "");
  if (command == commands.end() || count % 2) {
    fprintf(stderr, "peer: the first word must be exact, shared, tenants, build-shared or build-tenants; then pairs\n");
    return 2;
  }
  try {
    Options options;
    for (int i = 2; i + 1 < count; i += 2) {
      if (strncmp(words[i], "--", 2) != 0) throw std::runtime_error(std::string("no option ") + words[i]);
      options[words[i] + 2] = words[i + 1];
    }
    command->second(options);
  } catch (const std::exception& error) {
    fprintf(stderr, "peer %s: %s\n", words[1], error.what());
    return 1;
  }
}

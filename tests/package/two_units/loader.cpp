#include "loader.hpp"

Model load(const std::filesystem::path& dir) { return Model::load(dir); }

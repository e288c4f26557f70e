// What the two translation units share; both include <ds4/model.hpp>.
#pragma once

#include <filesystem>

#include <ds4/model.hpp>
#include <ds4/models/small.hpp>

using Model = ds4::Model<ds4::models::small>;

Model load(const std::filesystem::path& dir);

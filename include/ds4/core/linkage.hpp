// Where functions that are no templates are compiled.
//
// They are inline, as in every header-only library, unless a program defines DS4_COMPILED for its
// sources: headers that say `#ifndef DS4_COMPILED` then leave out their definitions, with what only
// these need (nlohmann::json, Eigen), and some source of the program compiles them all.
// ds4_add_model() sees to both.
#pragma once

#include <ds4/core/version.hpp>

/// In front of such a definition. Weak: several libraries of one program may bring it.
#ifdef DS4_COMPILED
#define DS4_FUNCTION [[gnu::weak]]
#else
#define DS4_FUNCTION inline
#endif

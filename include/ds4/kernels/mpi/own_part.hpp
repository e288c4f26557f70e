// What a rank computes itself, on the backend that it has for that.
#pragma once

#include <cstddef>

namespace ds4::inline v0_1::mpi {

/// The operations on a rank's own rows, for an inner backend; specialised for each. Unless told,
/// pointers are to the rank's first value of the first token; a token's values follow each other,
/// and `stride` values are from one token to the next.
template <class Inner>
struct OwnPart;

}  // namespace ds4::inline v0_1::mpi

// HTTP for ds4 serve, on cpp-httplib, which http_server.cpp alone includes.
#pragma once

#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include <ds4/serve/api_service.hpp>

namespace ds4::cli {

/// What clients may do.
struct HttpLimits {
  std::size_t connections = 128;            ///< at the same time; more are answered 503
  std::size_t head_bytes = 64 << 10;        ///< of a request's line and headers
  std::size_t body_bytes = 32 << 20;        ///< of a request
  std::chrono::seconds request{30};         ///< until a request has come as a whole
  std::chrono::seconds idle{15};            ///< between the requests of a connection
  std::chrono::seconds write{30};           ///< until a client takes what is sent
  std::chrono::milliseconds comment{5000};  ///< between the signs of life of a stream
};

/// The server: the protocol of an ApiService, and one page.
class HttpServer {
 public:
  /// Binds to an address and port; port 0 is any that is free. With a key, requests have to bring
  /// it. Throws ds4::Error if that is not possible.
  HttpServer(ApiService& service, const std::string& host, int port, std::string key,
             std::string_view page, HttpLimits limits = {});
  ~HttpServer();

  /// The port.
  int port() const;
  /// Takes connections until stop(), which any thread may call, and returns when all of them are
  /// closed.
  void run();
  void stop();

 private:
  class Implementation;
  std::unique_ptr<Implementation> implementation_;
};

}  // namespace ds4::cli

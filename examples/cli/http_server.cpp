#include "cli/http_server.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstddef>
#include <exception>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include <httplib.h>
#include <netdb.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <ds4/core/error.hpp>
#include <ds4/core/messages.hpp>
#include <ds4/serve/api_error.hpp>
#include <ds4/serve/api_service.hpp>

namespace ds4::cli {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

int milliseconds_until(Clock::time_point deadline) {
  const auto left = std::chrono::duration_cast<milliseconds>(deadline - Clock::now()).count();
  return static_cast<int>(std::clamp<long long>(left, 0, 3'600'000));
}

/// A connection. A request has to come in time and in bounds, whatever its pieces are.
class Connection final : public httplib::Stream {
 public:
  Connection(socket_t socket, const HttpLimits& limits, const std::atomic<bool>& stopping)
      : socket_(socket), limits_(limits), stopping_(stopping) {}
  /// Set where a request is answered whose body is not read: no other can follow.
  bool closes = false;

  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  /// Waits for the next request to begin.
  bool wait_for_request() {
    if (next_ == end_ &&
        (stopping_ || wait(POLLIN, Clock::now() + limits_.idle, milliseconds(0)) <= 0)) {
      return false;
    }
    deadline_ = Clock::now() + limits_.request;
    taken_ = 0;
    head_ended_ = 0;
    return true;
  }
  /// Whether the client is still there.
  bool is_open() const {
    char byte = 0;
    const ::ssize_t count = ::recv(socket_, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    return count > 0 || (count < 0 && (errno == EAGAIN || errno == EINTR));
  }

  bool is_readable() const override { return next_ < end_ || wait(POLLIN, deadline_) > 0; }
  bool is_writable() const override {
    return wait(POLLOUT, Clock::now() + limits_.write) > 0 && is_open();
  }
  ssize_t read(char* bytes, size_t size) override {
    if (next_ == end_) {
      if (wait(POLLIN, deadline_) <= 0) return -1;
      ssize_t count = 0;
      do {
        count = ::recv(socket_, buffer_.data(), buffer_.size(), 0);
      } while (count < 0 && errno == EINTR);
      if (count <= 0) return count;
      next_ = 0;
      end_ = static_cast<std::size_t>(count);
    }
    size = std::min(size, end_ - next_);
    for (std::size_t i = 0; i < size && head_ended_ < kHeadEnd.size(); ++i) {
      const char c = buffer_[next_ + i];
      head_ended_ = c == kHeadEnd[head_ended_] ? head_ended_ + 1 : c == kHeadEnd[0] ? 1 : 0;
    }
    taken_ += size;
    const bool in_head = head_ended_ < kHeadEnd.size();
    if (taken_ > limits_.head_bytes + (in_head ? 0 : limits_.body_bytes)) return -1;
    std::copy_n(buffer_.data() + next_, size, bytes);
    next_ += size;
    return static_cast<ssize_t>(size);
  }
  ssize_t write(const char* bytes, size_t size) override {
    std::size_t sent = 0;
    while (sent < size) {
      if (wait(POLLOUT, Clock::now() + limits_.write) <= 0) return -1;
      const ssize_t count = ::send(socket_, bytes + sent, size - sent, MSG_NOSIGNAL | MSG_DONTWAIT);
      if (count < 0 && (errno == EINTR || errno == EAGAIN)) continue;
      if (count < 0) return -1;
      sent += static_cast<std::size_t>(count);
    }
    return static_cast<ssize_t>(size);
  }
  // Nobody asks.
  void get_remote_ip_and_port(std::string&, int&) const override {}
  void get_local_ip_and_port(std::string&, int&) const override {}
  socket_t socket() const override { return socket_; }

 private:
  static constexpr std::string_view kHeadEnd = "\r\n\r\n";

  /// Waits until the deadline; once the server stops, as long as `patience`. 0: in vain.
  int wait(short events, Clock::time_point deadline,
           milliseconds patience = milliseconds(2000)) const {
    constexpr milliseconds kTurn{200};
    std::optional<Clock::time_point> end;
    for (;;) {
      const auto now = Clock::now();
      if (stopping_ && !end) end = now + patience;
      const auto until = end ? std::min(*end, deadline) : deadline;
      ::pollfd wait{socket_, events, 0};
      const int count = ::poll(&wait, 1, milliseconds_until(std::min(until, now + kTurn)));
      if (count > 0 || (count < 0 && errno != EINTR)) return count;
      if (Clock::now() >= until) return 0;
    }
  }

  socket_t socket_;
  const HttpLimits& limits_;
  const std::atomic<bool>& stopping_;
  Clock::time_point deadline_{};
  std::array<char, 16384> buffer_;
  std::size_t next_ = 0;
  std::size_t end_ = 0;
  std::size_t taken_ = 0;       // bytes of this request
  std::size_t head_ended_ = 0;  // of kHeadEnd, how much has come
};

/// The connection that this thread answers.
thread_local Connection* current = nullptr;

/// cpp-httplib's server with connections of our own.
class BoundedServer final : public httplib::Server {
 public:
  explicit BoundedServer(const HttpLimits& limits) : limits_(limits) {}

  std::atomic<bool> stopping{false};

 private:
  bool process_and_close_socket(socket_t socket) override {
    constexpr std::size_t kMostRequests = 1000;
    Connection connection(socket, limits_, stopping);
    const std::size_t open = ++open_;
    if (open > limits_.connections) {
      constexpr std::string_view kBusy =
          "HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
      connection.write(kBusy.data(), kBusy.size());
    } else {
      current = &connection;
      for (std::size_t i = 0; i < kMostRequests && connection.wait_for_request(); ++i) {
        bool closed = false;
        if (!process_request(connection, i + 1 == kMostRequests, closed, {}) || closed ||
            connection.closes) {
          break;
        }
      }
      current = nullptr;
    }
    --open_;
    ::shutdown(socket, SHUT_RDWR);
    ::close(socket);
    return true;
  }

  const HttpLimits& limits_;
  std::atomic<std::size_t> open_{0};
};

/// Compares without telling by its time how much is right.
bool same_key(std::string_view a, std::string_view b) {
  unsigned char difference = a.size() == b.size() ? 0 : 1;
  for (std::size_t i = 0; i < a.size(); ++i) {
    difference |= static_cast<unsigned char>(a[i] ^ b[b.empty() ? 0 : i % b.size()]);
  }
  return difference == 0 && !b.empty();
}

constexpr const char* kJson = "application/json";

void send_error(httplib::Response& response, const ApiError& error) {
  response.status = error.status();
  response.set_content(error.json(), kJson);
}

}  // namespace

class HttpServer::Implementation {
 public:
  Implementation(ApiService& service, const std::string& host, int port, std::string key,
                 std::string_view page, HttpLimits limits)
      : service_(service), key_(std::move(key)), limits_(limits), server_(limits_), page_(page) {
    using httplib::Request;
    using httplib::Response;
    server_.set_payload_max_length(limits_.body_bytes);
    server_.set_tcp_nodelay(true);
    server_.set_socket_options([](socket_t socket) {  // no second server on this port
      const int yes = 1;
      ::setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
    });
    // Some threads more, which tell those that are too many.
    server_.new_task_queue = [this] { return new httplib::ThreadPool(limits_.connections + 8); };
    server_.set_default_headers({{"Access-Control-Allow-Origin", "*"}});
    server_.set_pre_routing_handler([this](const Request& request, Response& response) {
      return route(request, response) ? httplib::Server::HandlerResponse::Handled
                                      : httplib::Server::HandlerResponse::Unhandled;
    });
    server_.Post("/v1/chat/completions", [this](const Request& request, Response& response) {
      answer(request, response, &ApiService::chat);
    });
    server_.Post("/v1/completions", [this](const Request& request, Response& response) {
      answer(request, response, &ApiService::complete);
    });
    server_.set_error_handler([](const Request& request, Response& response) {
      if (!response.body.empty()) return;
      const int status = response.status;
      send_error(response, status == 404
                               ? ApiError(404, "There is no " + request.method + " " + request.path)
                           : status == 413 ? ApiError(413, "The body of the request is too large")
                                           : ApiError(status, "The request cannot be read"));
    });
    server_.set_exception_handler(
        [](const Request&, Response& response, const std::exception_ptr& pointer) {
          try {
            std::rethrow_exception(pointer);
          } catch (const ApiError& error) {
            send_error(response, error);
          } catch (const std::exception&) {
            send_error(response, ApiError(500, "The request failed"));
          }
        });
    port_ = port == 0 ? server_.bind_to_any_port(host) : port;
    if (port_ <= 0 || (port != 0 && !server_.bind_to_port(host, port))) {
      throw Error("--port",
                  "cannot bind to " + detail::printable(host) + " port " + std::to_string(port));
    }
  }

  int port() const { return port_; }
  void run() { server_.listen_after_bind(); }
  void stop() {
    server_.stopping = true;
    server_.stop();
  }

 private:
  /// What needs no body; true if it is answered.
  bool route(const httplib::Request& request, httplib::Response& response) {
    const bool answered = answer_head(request, response);
    if (answered && current != nullptr &&
        (request.has_header("Content-Length") || request.has_header("Transfer-Encoding"))) {
      current->closes = true;
      response.set_header("Connection", "close");
    }
    return answered;
  }
  bool answer_head(const httplib::Request& request, httplib::Response& response) {
    if (request.method == "OPTIONS") {
      response.status = 204;
      response.set_header("Access-Control-Allow-Methods", "GET, POST, OPTIONS");
      response.set_header("Access-Control-Allow-Headers", "*");
      return true;
    }
    const bool gets = request.method == "GET" || request.method == "HEAD";
    if (gets && (request.path == "/" || request.path == "/health")) {
      response.status = 200;
      if (request.path == "/health") {
        response.set_content("{\"status\": \"ok\"}", kJson);
      } else {
        response.set_header("Content-Security-Policy",
                            "default-src 'none'; style-src 'unsafe-inline'; script-src "
                            "'unsafe-inline'; connect-src 'self'; img-src data:");
        response.set_content(page_.data(), page_.size(), "text/html; charset=utf-8");
      }
      return true;
    }
    constexpr std::string_view kBearer = "Bearer ";
    const std::string authorization = request.get_header_value("Authorization");
    if (!key_.empty() &&
        (!authorization.starts_with(kBearer) ||
         !same_key(std::string_view(authorization).substr(kBearer.size()), key_))) {
      send_error(response, ApiError(401, "Incorrect API key provided", "", "invalid_api_key"));
      return true;
    }
    constexpr std::string_view kModels = "/v1/models";
    if (gets && request.path == "/metrics") {
      response.status = 200;
      response.set_content(service_.metrics(), "text/plain; version=0.0.4");
    } else if (gets && request.path == kModels) {
      response.status = 200;
      response.set_content(service_.models(), kJson);
    } else if (gets && request.path.starts_with("/v1/models/")) {
      try {
        response.set_content(
            service_.model(std::string_view(request.path).substr(kModels.size() + 1)), kJson);
        response.status = 200;
      } catch (const ApiError& error) {
        send_error(response, error);
      }
    } else if (declared_bytes(request) > limits_.body_bytes) {
      send_error(response, ApiError(413, "The body of the request is too large"));
    } else if (request.has_header("Content-Encoding") || request.is_multipart_form_data()) {
      send_error(response, ApiError(415, "Expected a body that is JSON as it is"));
    } else if (request.method != "POST") {
      send_error(response, ApiError(404, "There is no " + request.method + " " +
                                             detail::printable(request.path)));
    } else {
      return false;
    }
    return true;
  }

  /// What Content-Length says; more than any limit if it is no number.
  static std::size_t declared_bytes(const httplib::Request& request) {
    if (!request.has_header("Content-Length")) return 0;
    const std::string text = request.get_header_value("Content-Length");
    std::size_t bytes = 0;
    const auto parsed = std::from_chars(text.data(), text.data() + text.size(), bytes);
    const bool whole = parsed.ec == std::errc() && parsed.ptr == text.data() + text.size();
    return whole ? bytes : std::numeric_limits<std::size_t>::max();
  }

  using Begin = std::shared_ptr<Exchange> (ApiService::*)(std::string_view, const std::string&);

  void answer(const httplib::Request& request, httplib::Response& response, Begin begin) {
    std::shared_ptr<Exchange> exchange;
    try {
      exchange = (service_.*begin)(request.body, client_of(request));
    } catch (const ApiError& error) {
      send_error(response, error);
      return;
    } catch (const Error& error) {
      send_error(response, api_error(error.what(), error.kind()));
      return;
    }
    if (!exchange->streams()) {
      constexpr milliseconds kTurn{250};
      for (;;) {
        const Exchange::Part part = exchange->wait(kTurn);
        if (part.over) {
          response.status = part.status;
          response.set_content(part.text, kJson);
          return;
        }
        if (current != nullptr && current->is_open()) continue;
        exchange->cancel();
        return;
      }
    }
    response.set_header("Cache-Control", "no-cache");
    response.set_header("X-Accel-Buffering", "no");
    response.set_chunked_content_provider(
        "text/event-stream",
        [this, exchange](std::size_t, httplib::DataSink& sink) { return stream(*exchange, sink); },
        [exchange](bool) { exchange->cancel(); });
  }

  /// Sends what there is to send, or a sign of life; false if nobody takes it.
  bool stream(Exchange& exchange, httplib::DataSink& sink) const {
    constexpr milliseconds kTurn{250};
    const auto start = Clock::now();
    for (;;) {
      const Exchange::Part part = exchange.wait(kTurn);
      if (!part.text.empty() && !sink.write(part.text.data(), part.text.size())) return false;
      if (part.over) {
        sink.done();
        return true;
      }
      if (!part.text.empty()) return true;
      if (current != nullptr && !current->is_open()) return false;
      if (Clock::now() - start < limits_.comment) continue;
      constexpr std::string_view kComment = ": still at it\n\n";
      return sink.write(kComment.data(), kComment.size());
    }
  }

  /// Who takes turns: the connection's other end, or, of several behind one, what they say.
  static std::string client_of(const httplib::Request& request) {
    constexpr std::size_t kMost = 200;
    std::string client =
        request.get_header_value("Authorization") + "|" + request.get_header_value("X-Client");
    client.resize(std::min(client.size(), kMost));
    sockaddr_storage address{};
    socklen_t size = sizeof(address);
    if (current != nullptr &&
        ::getpeername(current->socket(), reinterpret_cast<sockaddr*>(&address), &size) == 0) {
      char host[64] = {};
      if (::getnameinfo(reinterpret_cast<sockaddr*>(&address), size, host, sizeof(host), nullptr, 0,
                        NI_NUMERICHOST) == 0) {
        client += std::string("|") + host;
      }
    }
    return client;
  }

  ApiService& service_;
  std::string key_;
  HttpLimits limits_;
  BoundedServer server_;
  std::string page_;
  int port_ = 0;
};

HttpServer::HttpServer(ApiService& service, const std::string& host, int port, std::string key,
                       std::string_view page, HttpLimits limits)
    : implementation_(
          std::make_unique<Implementation>(service, host, port, std::move(key), page, limits)) {}
HttpServer::~HttpServer() = default;
int HttpServer::port() const { return implementation_->port(); }
void HttpServer::run() { implementation_->run(); }
void HttpServer::stop() { implementation_->stop(); }

}  // namespace ds4::cli

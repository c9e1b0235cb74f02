// Threads that share the pieces of one job after the other.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <functional>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace pd_edge {

// Lives as long as a call: nothing is left for a fork to lose. Whoever is free takes the next piece, so that a thread
// which the system wakes late delays nobody.
class Team {
   public:
    explicit Team(int threads) {
        try {
            for (int i = 1; i < threads; ++i) helpers_.emplace_back([this] { help(); });
        } catch (const std::system_error&) {
            // The system gives no more of them: fewer take longer and come to the same.
        }
    }

    ~Team() {
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            closed_ = true;
        }
        called_.notify_all();
        for (std::thread& helper : helpers_) helper.join();
    }

    Team(const Team&) = delete;
    Team& operator=(const Team&) = delete;

    // Runs `piece(0) ... piece(pieces - 1)`, in any order; a piece must not throw.
    void share(std::size_t pieces, const std::function<void(std::size_t)>& piece) {
        if (helpers_.empty() || pieces < 2) {
            for (std::size_t i = 0; i < pieces; ++i) piece(i);
            return;
        }
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            piece_ = &piece;
            pieces_ = pieces;
            next_ = 0;
            ++job_;
        }
        called_.notify_all();
        work(piece, pieces);
        std::unique_lock<std::mutex> lock(mutex_);
        piece_ = nullptr;
        finished_.wait(lock, [this] { return busy_ == 0; });
    }

   private:
    void work(const std::function<void(std::size_t)>& piece, std::size_t pieces) {
        for (std::size_t i = next_++; i < pieces; i = next_++) piece(i);
    }

    void help() {
        std::size_t done = 0;
        std::unique_lock<std::mutex> lock(mutex_);
        while (true) {
            called_.wait(lock, [&] { return closed_ || (piece_ != nullptr && job_ != done); });
            if (closed_) return;
            done = job_;
            ++busy_;
            const auto* piece = piece_;
            const std::size_t pieces = pieces_;
            lock.unlock();
            work(*piece, pieces);
            lock.lock();
            if (--busy_ == 0) finished_.notify_one();
        }
    }

    std::mutex mutex_;
    std::condition_variable called_, finished_;
    const std::function<void(std::size_t)>* piece_ = nullptr;
    std::size_t pieces_ = 0, job_ = 0;
    std::atomic<std::size_t> next_{0};
    int busy_ = 0;
    bool closed_ = false;
    std::vector<std::thread> helpers_;
};

}  // namespace pd_edge

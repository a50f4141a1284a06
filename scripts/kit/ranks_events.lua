--- kit/ranks_events.lua: ranks on hosts that send each other messages, played event by event; no
-- data moves, only the clock. A rank is a coroutine that computes, sends and receives. The link of
-- a host is a resource, each way for itself: a message takes it for alpha + bytes * beta at the
-- sender and, from when it begins to come, at the receiver; what can't go yet queues in order.
-- Messages inside a host are copies that their sender makes one after the other.
local events = {}

-- ---- the clock ----

--- Events by their time. Ranks that do alike have theirs at the very same time, so the heap is of
-- different times, and each has its list: { handler, argument, handler, argument, ... }.
local function new_clock()
  local heap, n, lists = {}, 0, {}

  local function rise(time)
    n = n + 1
    local i = n
    while i > 1 and heap[i // 2] > time do
      heap[i] = heap[i // 2]
      i = i // 2
    end
    heap[i] = time
  end

  local function take()
    local least, last = heap[1], heap[n]
    heap[n] = nil
    n = n - 1
    local i = 1
    while 2 * i <= n do
      local child = 2 * i
      if child < n and heap[child + 1] < heap[child] then child = child + 1 end
      if heap[child] >= last then break end
      heap[i] = heap[child]
      i = child
    end
    if n > 0 then heap[i] = last end
    return least
  end

  local clock = { now = 0.0 }

  function clock.at(time, handler, argument)
    local list = lists[time]
    if not list then
      list = { n = 0 }
      lists[time] = list
      rise(time)
    end
    local k = list.n
    list[k + 1], list[k + 2], list.n = handler, argument, k + 2
  end

  --- Until nothing is left; what happens at a time may add to that time's list.
  function clock.run()
    while n > 0 do
      local time = take()
      local list, k = lists[time], 1
      clock.now = time
      while k <= list.n do
        list[k](list[k + 1])
        k = k + 2
      end
      lists[time] = nil
    end
  end

  return clock
end

-- ---- messages ----

--- Calls that move messages among `ranks`; both count what they move.
local function new_post(world, ranks, clock, count)
  local alpha, beta = world.link.alpha, world.link.beta
  local near_alpha, near_beta = world.near.alpha, world.near.beta
  local max = math.max

  local function arrive(message)
    local rank, from = ranks[message.to], message.from
    if rank.waits_for == from then
      rank.waits_for = nil
      return rank.go()
    end
    rank.inbox[from] = (rank.inbox[from] or 0) + 1
  end

  --- A message's first byte is at the receiver's host.
  local function enter(message)
    local host = ranks[message.to].host
    host.comes = max(clock.now, host.comes) + alpha + message.bytes * beta
    clock.at(host.comes, arrive, message)
  end

  return function(rank, to, bytes)
    local message, host = { from = rank.id, to = to, bytes = bytes }, rank.host
    count.messages, count.bytes = count.messages + 1, count.bytes + bytes
    if ranks[to].host == host then
      rank.copies = max(clock.now, rank.copies) + near_alpha + bytes * near_beta
      return clock.at(rank.copies, arrive, message)
    end
    local start = max(clock.now, host.goes)
    host.goes, host.bytes = start + alpha + bytes * beta, host.bytes + bytes
    if start > clock.now then return clock.at(start, enter, message) end
    enter(message)
  end
end

-- ---- ranks ----

local Rank = {}
Rank.__index = Rank

--- A time of the clock; one that has passed is now.
function Rank:wait_until(time)
  if time <= self.clock.now then return end
  self.clock.at(time, self.go)
  coroutine.yield()
end

function Rank:compute(seconds) self:wait_until(self.clock.now + seconds) end

--- Hands a message over and goes on.
function Rank:send(to, bytes) self.post(self, to, bytes) end

--- The next message of a rank.
function Rank:receive(from)
  local here = self.inbox[from]
  if here and here > 0 then
    self.inbox[from] = here - 1
    return
  end
  self.waits_for = from
  coroutine.yield()
end

local function new_hosts(world)
  local hosts = {}
  for i = 1, world.hosts do hosts[i] = { goes = 0.0, comes = 0.0, bytes = 0 } end
  return hosts
end

--- Host of a rank: by slot, one host after the other; or by node, the next one for each.
local function host_of(world, hosts, id)
  local i = world.by_node and id % world.hosts or id // world.per_host
  return hosts[i + 1]
end

--- Plays program(rank) on every rank of a world: { hosts, per_host, link, near: { alpha, beta } in
-- seconds and seconds a byte, by_node }. Ranks count from 0. Returns { seconds, messages, bytes:
-- all that were sent, host_bytes: the most that one host's link sent }.
function events.play(world, program)
  local clock, hosts, ranks = new_clock(), new_hosts(world), {}
  local count, left = { messages = 0, bytes = 0 }, world.hosts * world.per_host
  local post = new_post(world, ranks, clock, count)
  count.seconds = 0.0
  for id = 0, left - 1 do
    local rank = setmetatable({ id = id, host = host_of(world, hosts, id), inbox = {}, copies = 0.0,
                                clock = clock, post = post }, Rank)
    rank.go = coroutine.wrap(function()
      program(rank)
      left, count.seconds = left - 1, clock.now
    end)
    ranks[id] = rank
    clock.at(0.0, rank.go)
  end
  clock.run()
  if left > 0 then error(("%d ranks wait for messages that nobody sends"):format(left)) end
  count.host_bytes = 0
  for _, host in ipairs(hosts) do count.host_bytes = math.max(count.host_bytes, host.bytes) end
  return count
end

return events

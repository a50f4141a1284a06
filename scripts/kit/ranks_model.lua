--- kit/ranks_model.lua: a training step on ranks, as programs for ranks_events.lua, and the closed
-- formulas that judge what comes of playing them.
--
-- Ways: `data`: each rank its lanes, then the gradient's reduce-scatter, the step on the own part,
-- the parameters' all-gather; `overlap`: the same, the gradient leaves in buckets while the last
-- lane's backward runs; `scan`, `gather`, `chain`: rows in segments, one a rank, whose attention
-- needs the state of what stands before: by a scan over ranks, by gathering all states, or from the
-- rank before. The last three don't have the gradient's sum, which is that of `data`.
local events = require "kit.ranks_events"

local model = {}

model.WAYS = { "data", "overlap", "scan", "gather", "chain" }

--- Links between hosts: alpha seconds, beta seconds a byte.
model.links = {
  ["1g"] = { alpha = 50e-6, beta = 1 / 117e6 },
  ["10g"] = { alpha = 30e-6, beta = 1 / 1.1e9 },
  ["100g"] = { alpha = 3e-6, beta = 1 / 11e9 },
}
model.near = { alpha = 0.5e-6, beta = 1 / 4e9 } -- inside a host, through its memory

local STEP = 28 / 20e9     -- seconds a parameter: AdamW's bytes through memory
local FORWARD = 1 / 3      -- of a forward and backward
local BEFORE = 1 / 4       -- of a block without attention: what stands before attention
local OWN_STATE = 1 / 2    -- of attention: what the state of the own keys costs, done beforehand
local DIRECT = 64          -- ranks up to which a sum by messages to everybody is as good

-- ---- lanes (engine/comm/tree.h) ----

function model.lanes_of(lanes, ranks, rank)
  return lanes * rank // ranks, lanes * (rank + 1) // ranks
end

--- How many whole nodes of the tree the lanes first .. last - 1 are.
function model.nodes(first, last)
  local n = 0
  while first < last do
    local count = 1
    while first % (2 * count) == 0 and first + 2 * count <= last do count = 2 * count end
    n, first = n + 1, first + count
  end
  return n
end

--- How many nodes each rank has (from index 0), and all together.
function model.vectors(lanes, ranks)
  local list, all = {}, 0
  for rank = 0, ranks - 1 do
    list[rank] = model.nodes(model.lanes_of(lanes, ranks, rank))
    all = all + list[rank]
  end
  return list, all
end

local function is_power(n) return n & (n - 1) == 0 end

local function rounds_of(ranks)
  local n = 0
  while 1 << n < ranks do n = n + 1 end
  return n
end

--- Halving needs 2^k ranks with one node each; direct takes any.
function model.can_halve(lanes, ranks)
  local _, all = model.vectors(lanes, ranks)
  return is_power(ranks) and all == ranks
end

-- ---- sums ----

--- Part i of n numbers in `parts`, i from 0.
local function part(n, parts, i) return n * (i + 1) // parts - n * i // parts end

--- Bytes by round and by the low bits of a rank: what of n numbers is for the ranks that have them.
local function classes(n, ranks)
  local list = {}
  for round = 0, rounds_of(ranks) - 1 do
    local size, sums = 2 << round, {}
    for i = 0, ranks - 1 do
      sums[i % size] = (sums[i % size] or 0) + 4 * part(n, ranks, i)
    end
    list[round] = sums
  end
  return list
end

--- The sums of one bucket: functions of a rank that scatter it and that gather it.
local function halving(n, ranks)
  local bytes, rounds = classes(n, ranks), rounds_of(ranks)
  local function scatter(rank)
    for round = 0, rounds - 1 do
      local other = rank.id ~ 1 << round
      rank:send(other, bytes[round][other % (2 << round)])
      rank:receive(other)
    end
  end
  local function gather(rank)
    for round = rounds - 1, 0, -1 do
      local other = rank.id ~ 1 << round
      rank:send(other, bytes[round][rank.id % (2 << round)])
      rank:receive(other)
    end
  end
  return scatter, gather
end

local function direct(n, ranks, nodes)
  --- Each rank in turn, the next one first, so that no two begin with the same.
  local function trade(rank, bytes_for, times)
    for far = 1, ranks - 1 do
      local to = (rank.id + far) % ranks
      for _ = 1, times(rank.id) do rank:send(to, bytes_for(rank.id, to)) end
    end
    for far = 1, ranks - 1 do
      local from = (rank.id - far) % ranks
      for _ = 1, times(from) do rank:receive(from) end
    end
  end
  local function scatter(rank)
    trade(rank, function(_, to) return 4 * part(n, ranks, to) end, function(id)
      return nodes[id]
    end)
  end
  local function gather(rank)
    trade(rank, function(from) return 4 * part(n, ranks, from) end, function() return 1 end)
  end
  return scatter, gather
end

--- plan: { ranks, params, lanes, sum: "halving" or "direct", buckets, lane_s: forward and backward
-- of a lane, overlap }.
local function data_program(plan)
  local buckets, nodes = {}, model.vectors(plan.lanes, plan.ranks)
  local make = plan.sum == "halving" and halving or direct
  for k = 1, plan.buckets do
    buckets[k] = { make(part(plan.params, plan.buckets, k - 1), plan.ranks, nodes) }
  end
  local backward = plan.lane_s * (1 - FORWARD)
  return function(rank)
    local first, last = model.lanes_of(plan.lanes, plan.ranks, rank.id)
    local done = (last - first) * plan.lane_s
    for k, bucket in ipairs(buckets) do
      rank:wait_until(plan.overlap and done - backward * (1 - k / plan.buckets) or done)
      bucket[1](rank)
    end
    rank:compute(STEP * plan.params / plan.ranks)
    for _, bucket in ipairs(buckets) do bucket[2](rank) end
  end
end

--- Messages and bytes of the sums of all buckets: out to the owners by nodes, and back as one each.
local function data_moved(plan)
  local P, nodes, all = plan.ranks, model.vectors(plan.lanes, plan.ranks)
  local bytes = 8 * plan.params * (P - 1)
  for k = 1, all > P and plan.buckets or 0 do -- ranks with several nodes send those, too
    local n = part(plan.params, plan.buckets, k - 1)
    for rank = 0, P - 1 do bytes = bytes + 4 * (nodes[rank] - 1) * (n - part(n, P, rank)) end
  end
  local each = plan.sum == "halving" and 2 * P * rounds_of(P) or (all + P) * (P - 1)
  return plan.buckets * each, bytes
end

--- Seconds of a reduce-scatter, and of an all-gather, of all buckets.
local function sum_seconds(plan, link)
  local P, B, bytes = plan.ranks, plan.buckets, 4 * plan.params
  if plan.sum == "halving" then
    local seconds = rounds_of(P) * link.alpha * B + (P - 1) / P * bytes * link.beta
    return seconds, seconds
  end
  local one, most = link.alpha * B + bytes / P * link.beta, 0
  local nodes, all = model.vectors(plan.lanes, P)
  for rank = 0, P - 1 do -- what the busiest sends or receives
    most = math.max(most, nodes[rank] * (P - 1), all - nodes[rank])
  end
  return most * one, (P - 1) * one
end

--- Seconds, messages and bytes by formula.
local function data_formula(plan, link)
  local scatter, gather = sum_seconds(plan, link)
  local hidden = 0
  if plan.overlap then -- all but the last bucket's sum, or the backward behind the first bucket
    hidden = math.min(scatter, plan.lane_s * (1 - FORWARD)) * (1 - 1 / plan.buckets)
  end
  local messages, bytes = data_moved(plan)
  return { seconds = plan.work + scatter - hidden + gather, messages = messages, bytes = bytes }
end

-- ---- rows in segments ----

--- Each rank has the states of those before it: a hypercube over whoever is there. `mirrored`: of
-- those behind it.
local function scan(rank, ranks, bytes, mirrored)
  local id = mirrored and ranks - 1 - rank.id or rank.id
  for round = 0, rounds_of(ranks) - 1 do
    local other = id ~ 1 << round
    if other < ranks then
      local to = mirrored and ranks - 1 - other or other
      rank:send(to, bytes)
      rank:receive(to)
    end
  end
end

--- Each rank has all states: doubling, or directly.
local function gather(rank, ranks, bytes)
  if is_power(ranks) then
    for round = 0, rounds_of(ranks) - 1 do
      local other = rank.id ~ 1 << round
      rank:send(other, bytes << round)
      rank:receive(other)
    end
    return
  end
  for far = 1, ranks - 1 do rank:send((rank.id + far) % ranks, bytes) end
  for far = 1, ranks - 1 do rank:receive((rank.id - far) % ranks) end
end

--- plan: { ranks, layers, rows, block_s: forward and backward of a block and a rank's part of a
-- row, attention: its share, state: bytes, exchange }. The state of the own keys first, then the
-- others'.
local function exchange_program(plan)
  local bytes, seconds = plan.rows * plan.state, plan.work / plan.layers
  return function(rank)
    for _ = 1, plan.layers do
      rank:compute(seconds * FORWARD)
      plan.exchange(rank, plan.ranks, bytes, false)
    end
    for _ = 1, plan.layers do
      rank:compute(seconds * (1 - FORWARD))
      plan.exchange(rank, plan.ranks, bytes, true)
    end
  end
end

--- All rows forward, then all backward. Attention waits for the rank before; the rest of a block
-- doesn't.
local function chain_program(plan)
  local attention = plan.attention * plan.block_s
  local rest = plan.block_s - attention
  --- One way through all layers of all rows, from rank `first` to rank `last`.
  local function pass(rank, share, before, first, last)
    local step = first < last and 1 or -1
    for _ = 1, plan.layers * plan.rows do
      rank:compute(share * before * rest)
      if rank.id ~= first then rank:receive(rank.id - step) end
      rank:compute(share * attention)
      if rank.id ~= last then rank:send(rank.id + step, plan.state) end
      rank:compute(share * (1 - before) * rest)
    end
  end
  return function(rank)
    pass(rank, FORWARD, BEFORE, 0, plan.ranks - 1)
    pass(rank, 1 - FORWARD, 1 - BEFORE, plan.ranks - 1, 0)
  end
end

--- Pairs of ranks that talk in a round of the scan: those with the round's bit set.
local function scan_pairs(ranks)
  local n = 0
  for round = 0, rounds_of(ranks) - 1 do
    local size = 1 << round
    n = n + ranks // (2 * size) * size + math.max(0, ranks % (2 * size) - size)
  end
  return n
end

local function exchange_formula(plan, link)
  local P, rounds, bytes = plan.ranks, rounds_of(plan.ranks), plan.rows * plan.state
  local each, sent, talk
  if plan.exchange == scan then
    each = 2 * scan_pairs(P)
    sent, talk = each, rounds * (link.alpha + bytes * link.beta)
  else
    sent = P * (P - 1)
    each = is_power(P) and P * rounds or sent
    talk = each / P * link.alpha + (P - 1) * bytes * link.beta
  end
  return { seconds = plan.work + plan.layers * 2 * talk, messages = 2 * plan.layers * each,
           bytes = 2 * plan.layers * sent * bytes }
end

local function chain_formula(plan, link)
  local P, K = plan.ranks, plan.layers * plan.rows
  local hop = link.alpha + plan.state * link.beta
  local seconds = plan.work + (P - 1) * (plan.attention * plan.block_s + 2 * hop)
  for _, share in ipairs { FORWARD, 1 - FORWARD } do -- a link that is slower than a block
    seconds = seconds + (K - 1) * math.max(0, hop - share * plan.block_s)
  end
  return { seconds = seconds, messages = 2 * (P - 1) * K, bytes = 2 * (P - 1) * K * plan.state }
end

-- ---- a step ----

--- What a way needs of a shape: { ranks, tokens: of a rank, rate: flops a second of a rank, params,
-- flops: a token's, forward and backward, of the model; lanes, buckets, sum; layers, rows, state,
-- block_flops: a token's of one block, attention: its share of them }.
-- Beside them in the plan: `alone`: seconds of one rank without others; `work`: those in which the
-- busiest of all computes.
local function data_plan(plan)
  local P = plan.ranks
  plan.lanes, plan.buckets = plan.lanes or P, plan.buckets or 6
  plan.lane_s = plan.flops * plan.tokens * P / plan.lanes / plan.rate
  plan.sum = plan.sum or P > DIRECT and model.can_halve(plan.lanes, P) and "halving" or "direct"
  plan.alone = plan.flops * plan.tokens / plan.rate + STEP * plan.params
  plan.work = math.ceil(plan.lanes / P) * plan.lane_s + STEP * plan.params / P
  plan.program, plan.formula = data_program, data_formula
  return plan
end

local function segments_plan(plan)
  plan.block_s = plan.block_flops * plan.tokens / plan.rate
  plan.alone = plan.layers * plan.rows * plan.block_s
  if plan.way == "chain" then
    plan.work, plan.program, plan.formula = plan.alone, chain_program, chain_formula
    return plan
  end
  plan.work = plan.alone * (1 + OWN_STATE * plan.attention)
  plan.exchange = plan.way == "scan" and scan or gather
  plan.program, plan.formula = exchange_program, exchange_formula
  return plan
end

local function plan_of(way, shape)
  local plan = setmetatable({ way = way, overlap = way == "overlap" }, { __index = shape })
  return (way == "data" or plan.overlap) and data_plan(plan) or segments_plan(plan)
end

--- Seconds, messages and bytes of a step by formula. Without the seconds where no formula is known:
-- ranks that share a link, or the lanes of one that are more than another's.
function model.formula(way, shape, world)
  local plan = plan_of(way, shape)
  local judged = plan.formula(plan, world.link)
  local uneven = plan.lanes and plan.lanes % plan.ranks ~= 0
  if world.per_host > 1 or uneven then judged.seconds = nil end
  return judged
end

--- Plays a step: what events.play returns, `efficiency`: tokens a second of a rank beside those of
-- one alone that has as many a step, and `talk`: the seconds in which the busiest doesn't compute.
function model.play(way, shape, world)
  local plan = plan_of(way, shape)
  local played = events.play(world, plan.program(plan))
  played.efficiency, played.talk = plan.alone / played.seconds, played.seconds - plan.work
  played.sum = plan.sum
  return played
end

return model

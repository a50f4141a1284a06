--- kit/ranks_model.lua: a training step on ranks, as programs for ranks_events.lua, and the closed
-- formulas that judge what comes of playing them.
--
-- Ways: `data`: each rank its lanes, then the gradient's reduce-scatter, the step on the own part,
-- the parameters' all-gather; `overlap`: the same, the gradient leaves in buckets while the last
-- lane's backward runs; `scan`, `gather`, `chain`: rows in segments, one a rank, whose attention
-- needs the state of what stands before: by a scan over ranks, by gathering all states, or from the
-- rank before. With `row_ranks` fewer ranks than all share a row, side by side, and groups of them
-- have other rows. The last three don't have the gradient's sum, which is that of `data`.
--
-- Sums are direct, as the engine's: everybody's part to its owner, and back. `halving`, among 2^k
-- ranks with one node each, is played to see what it is worth.
local events = require "kit.ranks_events"

local model = {}

model.WAYS = { "data", "overlap", "scan", "gather", "chain" }

--- Does a way share a step by its rows, and no row?
function model.has_whole_rows(way) return way == "data" or way == "overlap" end

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
local BLOCK = 32768        -- numbers that one rank owns together (engine/train/clip.h)
local PIECE = 65536        -- of a rank in a round (engine/comm/deal.h)
local BUCKETS = 6          -- of a gradient that leaves during the backward

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

--- How many of n numbers each rank owns, from index 0: whole blocks, as even as they go; and the
--- most.
function model.shards(n, ranks)
  local list, most = {}, 0
  local function edge(i)
    return math.min(n, ((n * i + ranks - 1) // ranks + BLOCK - 1) // BLOCK * BLOCK)
  end
  for i = 0, ranks - 1 do
    list[i] = edge(i + 1) - edge(i)
    most = math.max(most, list[i])
  end
  return list, most
end

--- own[i]: the numbers of this bucket that rank i owns.
local function direct(own, ranks, nodes)
  --- Each rank in turn, the next one first, so that no two begin with the same.
  local function scatter(rank)
    for far = 1, ranks - 1 do
      local to = (rank.id + far) % ranks
      for _ = 1, own[to] > 0 and nodes[rank.id] or 0 do rank:send(to, 4 * own[to]) end
    end
    for far = 1, own[rank.id] > 0 and ranks - 1 or 0 do
      local from = (rank.id - far) % ranks
      for _ = 1, nodes[from] do rank:receive(from) end
    end
  end
  local function gather(rank)
    for far = 1, own[rank.id] > 0 and ranks - 1 or 0 do
      rank:send((rank.id + far) % ranks, 4 * own[rank.id])
    end
    for far = 1, ranks - 1 do
      local from = (rank.id - far) % ranks
      if own[from] > 0 then rank:receive(from) end
    end
  end
  return scatter, gather
end

--- Bucket k's numbers of each rank.
local function cut(plan, k)
  local own = {}
  for i = 0, plan.ranks - 1 do own[i] = part(plan.shards[i], plan.buckets, k - 1) end
  return own
end

--- The sums of all buckets: { scatter, gather } each.
local function buckets_of(plan)
  local list = {}
  for k = 1, plan.buckets do
    list[k] = plan.sum == "halving"
      and { halving(part(plan.params, plan.buckets, k - 1), plan.ranks) }
      or { direct(cut(plan, k), plan.ranks, plan.nodes) }
  end
  return list
end

--- plan: { ranks, params, lanes, sum: "halving" or "direct", buckets, nodes: vectors of each rank,
-- vectors: of all, lane_s: forward and backward of a lane, overlap }.
local function data_program(plan)
  local buckets, backward = buckets_of(plan), plan.lane_s * (1 - FORWARD)
  return function(rank)
    local first, last = model.lanes_of(plan.lanes, plan.ranks, rank.id)
    local done = (last - first) * plan.lane_s
    for k, bucket in ipairs(buckets) do
      rank:wait_until(plan.overlap and done - backward * (1 - k / plan.buckets) or done)
      bucket[1](rank)
    end
    rank:compute(STEP * plan.own)
    for _, bucket in ipairs(buckets) do bucket[2](rank) end
  end
end

--- How many messages the numbers of a rank are, of one node.
local function messages_for(plan, rank) return math.min(plan.buckets, plan.shards[rank]) end

--- Messages and bytes of the sums of all buckets: out to the owners by nodes, and back as one each.
local function data_moved(plan)
  local P, nodes, all = plan.ranks, plan.nodes, plan.vectors
  if plan.sum == "halving" then
    return plan.buckets * 2 * P * rounds_of(P), 8 * plan.params * (P - 1)
  end
  local messages, bytes = 0, 0
  for rank = 0, P - 1 do
    local times = all - nodes[rank] + P - 1
    messages = messages + times * messages_for(plan, rank)
    bytes = bytes + 4 * times * plan.shards[rank]
  end
  return messages, bytes
end

--- Seconds of a reduce-scatter, and of an all-gather, of all buckets: what the busiest rank sends
--- or receives.
local function sum_seconds(plan, link)
  local P = plan.ranks
  if plan.sum == "halving" then
    local seconds = rounds_of(P) * link.alpha * plan.buckets
      + (P - 1) / P * 4 * plan.params * link.beta
    return seconds, seconds
  end
  local nodes, all = plan.nodes, plan.vectors
  local one, whole, scatter, gather = {}, 0, 0, 0
  for rank = 0, P - 1 do
    one[rank] = link.alpha * messages_for(plan, rank) + 4 * plan.shards[rank] * link.beta
    whole = whole + one[rank]
  end
  for rank = 0, P - 1 do
    local others = whole - one[rank]
    scatter = math.max(scatter, nodes[rank] * others, (all - nodes[rank]) * one[rank])
    gather = math.max(gather, (P - 1) * one[rank], others)
  end
  return scatter, gather
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

--- Each of n ranks side by side has the states of those before it: a hypercube over whoever is
-- there. `mirrored`: of those behind it.
local function scan(rank, n, bytes, mirrored)
  local place = rank.id % n
  local first, id = rank.id - place, mirrored and n - 1 - place or place
  for round = 0, rounds_of(n) - 1 do
    local other = id ~ 1 << round
    if other < n then
      local to = first + (mirrored and n - 1 - other or other)
      rank:send(to, bytes)
      rank:receive(to)
    end
  end
end

--- Each of n ranks side by side has all their states: doubling, or directly.
local function gather(rank, n, bytes)
  local place = rank.id % n
  local first = rank.id - place
  if is_power(n) then
    for round = 0, rounds_of(n) - 1 do
      local other = first + (place ~ 1 << round)
      rank:send(other, bytes << round)
      rank:receive(other)
    end
    return
  end
  for far = 1, n - 1 do rank:send(first + (place + far) % n, bytes) end
  for far = 1, n - 1 do rank:receive(first + (place - far) % n) end
end

--- plan: { row: ranks of a row, layers, rows, block_s: forward and backward of a block and a rank's
-- part of a row, attention: its share, state: bytes, exchange, lane_s: without others }. A lane of
-- a row's ranks: the state of the own keys first, then the others'.
local function exchange_lane(plan, rank)
  local bytes, seconds = plan.rows * plan.state, plan.lane_s / plan.layers
  for _ = 1, plan.layers do
    rank:compute(seconds * FORWARD)
    plan.exchange(rank, plan.row, bytes, false)
  end
  for _ = 1, plan.layers do
    rank:compute(seconds * (1 - FORWARD))
    plan.exchange(rank, plan.row, bytes, true)
  end
end

--- All rows forward, then all backward. Attention waits for the rank before; the rest of a block
-- doesn't.
local function chain_lane(plan, rank)
  local attention = plan.attention * plan.block_s
  local rest = plan.block_s - attention
  local start = rank.id - rank.id % plan.row
  --- One way through all layers of all rows, from rank `first` to rank `last`.
  local function pass(share, before, first, last)
    local step = first < last and 1 or -1
    for _ = 1, plan.layers * plan.rows do
      rank:compute(share * before * rest)
      if rank.id ~= first then rank:receive(rank.id - step) end
      rank:compute(share * attention)
      if rank.id ~= last then rank:send(rank.id + step, plan.state) end
      rank:compute(share * (1 - before) * rest)
    end
  end
  pass(FORWARD, BEFORE, start, start + plan.row - 1)
  pass(1 - FORWARD, 1 - BEFORE, start + plan.row - 1, start)
end

--- The lanes of a rank's group one after the other, and where groups are, the gradient's sum.
local function segments_program(plan)
  local buckets = plan.row_ranks and buckets_of(plan) or {}
  return function(rank)
    local first, last = model.lanes_of(plan.lanes, plan.ranks // plan.row, rank.id // plan.row)
    for _ = first + 1, last do plan.lane(plan, rank) end
    for _, bucket in ipairs(buckets) do bucket[1](rank) end
    if plan.row_ranks then rank:compute(STEP * plan.own) end
    for _, bucket in ipairs(buckets) do bucket[2](rank) end
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

--- Seconds, messages and bytes of a lane, of one row's ranks.
local function exchange_formula(plan, link)
  local n, rounds, bytes = plan.row, rounds_of(plan.row), plan.rows * plan.state
  local each, sent, talk
  if plan.exchange == scan then
    each = 2 * scan_pairs(n)
    sent, talk = each, rounds * (link.alpha + bytes * link.beta)
  else
    sent = n * (n - 1)
    each = is_power(n) and n * rounds or sent
    talk = each / n * link.alpha + (n - 1) * bytes * link.beta
  end
  return plan.lane_s + plan.layers * 2 * talk, 2 * plan.layers * each,
         2 * plan.layers * sent * bytes
end

local function chain_formula(plan, link)
  local n, K = plan.row, plan.layers * plan.rows
  local hop = link.alpha + plan.state * link.beta
  local seconds = plan.lane_s
  if n > 1 then
    seconds = seconds + (n - 1) * (plan.attention * plan.block_s + 2 * hop)
    for _, share in ipairs { FORWARD, 1 - FORWARD } do -- a link that is slower than a block
      seconds = seconds + (K - 1) * math.max(0, hop - share * plan.block_s)
    end
  end
  return seconds, 2 * (n - 1) * K, 2 * (n - 1) * K * plan.state
end

--- The busiest group's lanes, and with groups the sum.
local function segments_formula(plan, link)
  local groups = plan.ranks // plan.row
  local seconds, messages, bytes = plan.lane_formula(plan, link)
  local judged = { seconds = math.ceil(plan.lanes / groups) * seconds,
                   messages = plan.lanes * messages, bytes = plan.lanes * bytes }
  if plan.row_ranks then
    local out, back = sum_seconds(plan, link)
    local more, moved = data_moved(plan)
    judged.seconds = judged.seconds + out + STEP * plan.own + back
    judged.messages, judged.bytes = judged.messages + more, judged.bytes + moved
  end
  return judged
end

-- ---- a step ----

--- What a way needs of a shape: { ranks, tokens: of a rank, and in segments of each row, rate:
-- flops a second of a rank, params, flops: a token's, forward and backward, of the model; lanes,
-- buckets, sum; layers, rows: of a lane, state, block_flops: a token's of one block, attention: its
-- share of them, row_ranks }.
-- Beside them in the plan: `alone`: seconds of one rank without others; `work`: those in which the
-- busiest of all computes; `each`: tokens of a rank in a step.

--- The sum of the gradient.
local function plan_sum(plan)
  local shards, most = model.shards(plan.params, plan.ranks)
  plan.sum, plan.shards = plan.sum or "direct", shards
  plan.own = plan.sum == "halving" and plan.params / plan.ranks or most
  plan.buckets = plan.buckets
    or math.max((most + PIECE - 1) // PIECE, plan.overlap and BUCKETS or 1)
end

local function data_plan(plan)
  local P = plan.ranks
  plan.lanes, plan.each = plan.lanes or P, plan.tokens
  plan.nodes, plan.vectors = model.vectors(plan.lanes, P)
  plan_sum(plan)
  plan.lane_s = plan.flops * plan.tokens * P / plan.lanes / plan.rate
  plan.alone = plan.flops * plan.tokens / plan.rate + STEP * plan.params
  plan.work = math.ceil(plan.lanes / P) * plan.lane_s + STEP * plan.own
  plan.program, plan.formula = data_program, data_formula
  return plan
end

--- A rank has one segment of each lane of its group: as many vectors, which no other leaf joins.
local function plan_groups(plan)
  local groups = plan.ranks // plan.row
  plan.nodes, plan.vectors = {}, plan.lanes * plan.row
  for rank = 0, plan.ranks - 1 do
    local first, last = model.lanes_of(plan.lanes, groups, rank // plan.row)
    plan.nodes[rank] = plan.row == 1 and model.nodes(first, last) or last - first
  end
  if plan.row == 1 then plan.vectors = select(2, model.vectors(plan.lanes, groups)) end
  plan_sum(plan)
  plan.alone, plan.work = plan.alone + STEP * plan.params, plan.work + STEP * plan.own
end

local function segments_plan(plan)
  plan.row = plan.row_ranks or plan.ranks
  local groups = plan.ranks // plan.row
  plan.lanes = plan.row_ranks and plan.lanes or groups
  plan.block_s = plan.block_flops * plan.tokens / plan.rate
  plan.each = plan.tokens * plan.rows * plan.lanes / groups
  plan.lane_s = plan.layers * plan.rows * plan.block_s
  plan.alone = plan.lane_s * plan.lanes / groups
  if plan.way == "chain" then
    plan.lane, plan.lane_formula = chain_lane, chain_formula
  else
    plan.lane_s = plan.lane_s * (1 + OWN_STATE * plan.attention)
    plan.exchange = plan.way == "scan" and scan or gather
    plan.lane, plan.lane_formula = exchange_lane, exchange_formula
  end
  plan.work = math.ceil(plan.lanes / groups) * plan.lane_s
  if plan.row_ranks then plan_groups(plan) end
  plan.program, plan.formula = segments_program, segments_formula
  return plan
end

local function plan_of(way, shape)
  local plan = setmetatable({ way = way, overlap = way == "overlap" }, { __index = shape })
  return model.has_whole_rows(way) and data_plan(plan) or segments_plan(plan)
end

--- Seconds, messages and bytes of a step by formula. Without the seconds where no formula is known:
-- ranks that share a link, or the lanes of one that are more than another's.
function model.formula(way, shape, world)
  local plan = plan_of(way, shape)
  local judged = plan.formula(plan, world.link)
  local uneven = plan.lanes % (plan.ranks // (plan.row or 1)) ~= 0
  if world.per_host > 1 or uneven then judged.seconds = nil end
  return judged
end

--- Plays a step: what events.play returns, `efficiency`: tokens a second of a rank beside those of
-- one alone that has as many a step, and `talk`: the seconds in which the busiest doesn't compute.
function model.play(way, shape, world)
  local plan = plan_of(way, shape)
  local played = events.play(world, plan.program(plan))
  played.efficiency, played.talk = plan.alone / played.seconds, played.seconds - plan.work
  played.sum, played.lanes, played.each = plan.nodes and plan.sum, plan.lanes, plan.each
  return played
end

return model

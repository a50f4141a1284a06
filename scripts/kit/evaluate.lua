--- evaluate.lua - how good a model is on data, and what mere counting would get: for `train` and
-- `eval`, and for a training script of one's own.
local carried = require "kit.carried"
local pf = require "performer"
local ranks = require "kit.ranks"

local evaluate = {}

--- exp(loss) that stays a finite number, for JSON.
function evaluate.perplexity(loss) return math.exp(math.min(loss, 700)) end

--- -log of each letter's share of the training split, by id + 1; marks such as begin and end
-- are no letters: they are never masked.
local function letter_costs(data)
  local counts, tokenizer, costs, total = data:counts("train").unigram, data:tokenizer(), {}, 0
  for _, name in ipairs { "begin", "end", "mask", "pad" } do
    local id = tokenizer:special(name)
    if id then counts[id + 1] = 0 end
  end
  for _, count in ipairs(counts) do total = total + count + 0.5 end
  for i, count in ipairs(counts) do costs[i] = math.log(total / (count + 0.5)) end
  return costs
end

--- Counting on the training split, ids from 1: cost[id], -log of a token's frequency; pair(before,
-- id), the same behind another; used, how many kinds there are. Each count has 0.5 (pairs: a share
-- of the frequencies) added.
local function counting(data)
  local train = data:counts("train").bigram
  local vocab, seen, total, used = #train, {}, 0, 0
  for id = 1, vocab do
    seen[id] = 0
    for before = 1, vocab do seen[id] = seen[id] + train[before][id] end
    total, used = total + seen[id], used + (seen[id] > 0 and 1 or 0)
  end
  local share, cost, behind = {}, {}, {}
  for id = 1, vocab do
    share[id] = (seen[id] + 0.5) / (total + 0.5 * vocab)
    cost[id], behind[id] = -math.log(share[id]), 0
    for _, n in ipairs(train[id]) do behind[id] = behind[id] + n end
  end
  local function pair(before, id)
    return -math.log((train[before][id] + 5 * share[id]) / (behind[before] + 5))
  end
  return { cost = cost, pair = pair, used = used }
end

--- What counting costs on the targets of a causal batch: by frequencies, by pairs.
local function count_costs(batch, counted)
  local frequencies, by_pairs = 0, 0
  local input = batch.input:totable()
  for i, row in ipairs(batch.target:totable()) do
    for j, id in ipairs(row) do
      if id >= 0 then
        frequencies = frequencies + counted.cost[id + 1]
        by_pairs = by_pairs + counted.pair(input[i][j] + 1, id + 1)
      end
    end
  end
  return frequencies, by_pairs
end

local function cost_of(target, costs)
  local sum = 0
  for _, row in ipairs(target:totable()) do
    for _, id in ipairs(row) do sum = sum + (id >= 0 and costs[id + 1] or 0) end
  end
  return sum
end

--- Hides every letter that a masked batch asks for. BERT's masks leave a tenth of them where they
-- stand and put a random letter for another: right to train on, but copying would be judged.
local function hide_all(batch, mask)
  local input = batch.input:totable()
  for i, row in ipairs(batch.target:totable()) do
    for j, id in ipairs(row) do
      if id >= 0 then input[i][j] = mask end
    end
  end
  batch.input = pf.tensor(input, { dtype = "i32" })
end

--- Leaves `n` rows of a batch: training batches go on with the next pass over the rows, where these
-- end, and each is to count once.
local function cut(batch, n)
  for _, name in ipairs { "input", "target", "documents", "mask" } do
    batch[name] = batch[name] and batch[name]:slice(1, 1, n)
  end
  batch.rows = n
end

--- Batch `index` of `all`, each row of the split in one of them.
local function batch_of(data, split, index, all, options)
  local size, rows = options.batch or 8, data:info(split).rows
  local batch = data:batch { index = index, size = size, split = split, masked = options.masked,
                             seed = options.seed or 1, stream = options.carry ~= nil }
  if options.carry then
    batch.rows = carried.rows(index, size, all, rows)
  elseif batch.rows > rows - (index - 1) * size then
    cut(batch, rows - (index - 1) * size)
  end
  return batch
end

--- Sums of the numbers of each batch, one batch after the other: the same for any number of ranks.
local function sums_of(parts)
  local sums = { 0, 0, 0, 0, 0, 0, 0 }
  for _, part in ipairs(parts) do
    for i, number in ipairs(part) do sums[i] = sums[i] + number end
  end
  for i = 2, 4 do sums[i] = math.tointeger(sums[i]) end -- hits, tokens, rows
  return table.unpack(sums)
end

--- How many batches of `rows` rows a split has.
function evaluate.batches(data, split, rows) return math.ceil(data:info(split).rows / rows) end

--- Loss (nats a token) and accuracy of `model` on a split of `data`.
-- options: split "valid", batch rows, limit (batches at most, evenly taken: the same ones at every
-- call), masked, seed, carry (rows go on from so many positions of the rows before; the batches of
-- a limit are then the first ones), baseline (true: also the perplexity of the training split's
-- frequencies on the same tokens), counting (true, causal: as evaluate.baselines has them, but on
-- these tokens, `counted`), each(batch, batches), stop() (true: give up, the result is nil).
-- Returns { loss, perplexity, accuracy, tokens, rows, seconds, baseline, counted }.
function evaluate.run(model, data, options)
  local split, size = options.split or "valid", options.batch or 8
  local all = evaluate.batches(data, split, size)
  local batches = math.min(all, options.limit or all)
  local mask = options.masked and data:tokenizer():special "mask"
  local costs = options.baseline and letter_costs(data)
  local counted, start = options.counting and counting(data), pf.clock()
  local carry = carried.first(model, options, size)
  local parts, stopped = {}, false
  for i = 1, batches do
    if carry or ranks.has(i) then -- what is carried goes from batch to batch
      local index = carry and i or 1 + (i - 1) * all // batches
      local batch = batch_of(data, split, index, all, options)
      if mask then hide_all(batch, mask) end
      local sums = model:evaluate(batch, { carry = carry }) -- long rows in slices, logits in pieces
      local one, two = 0, 0
      if counted then one, two = count_costs(batch, counted) end
      parts[i] = { sums.loss, sums.right, sums.tokens, batch.rows,
                   costs and cost_of(batch.target, costs) or 0, one, two }
      stopped = options.stop and options.stop() or false
      if stopped then break end
      collectgarbage() -- the batch's own tensors
      if options.each then options.each(i, batches) end
    end
  end
  if ranks.any(stopped) then return nil end
  local total, right, tokens, rows, cost, frequencies, behind =
    sums_of(carry and parts or ranks.gather(parts, batches, 7))
  local some = math.max(tokens, 1)
  return { loss = total / some, perplexity = evaluate.perplexity(total / some), tokens = tokens,
           rows = rows, accuracy = right / some, seconds = pf.clock() - start,
           baseline = costs and evaluate.perplexity(cost / some) or nil,
           counted = counted and { uniform = counted.used,
                                   frequencies = math.exp(frequencies / some),
                                   pairs = math.exp(behind / some) } or nil }
end

--- Perplexities of counting on the training split, measured on the valid tokens:
-- { uniform, frequencies, pairs }.
function evaluate.baselines(data)
  local counted, asked = counting(data), data:counts("valid").bigram
  local total, unigram, bigram = 0, 0, 0
  for before, row in ipairs(asked) do
    for id, n in ipairs(row) do
      if n > 0 then
        total, unigram = total + n, unigram + n * counted.cost[id]
        bigram = bigram + n * counted.pair(before, id)
      end
    end
  end
  if total == 0 then return nil end
  return { uniform = counted.used, frequencies = math.exp(unigram / total),
           pairs = math.exp(bigram / total) }
end

return evaluate

--- recall.lua - the recall task: pairs of a key and its value, one after another. A key has one
-- value in all of a row, and another in other rows: where it comes again, what stood behind it
-- before is all that tells its value. So the loss is what attention finds again, and from how far.
--
-- In the manner of multi-query associative recall (Arora et al. 2023, arXiv 2312.04927). What must
-- hold: a row follows from the seed and its number alone, so that all models see the same ones.
local pf = require "performer"

local recall = {}
recall.__index = recall

--- The mixing of splitmix64 (Steele et al. 2014).
local function mix(z)
  z = (z ~ (z >> 30)) * 0xbf58476d1ce4e5b9
  z = (z ~ (z >> 27)) * 0x94d049bb133111eb
  return z ~ (z >> 31)
end

--- The numbers of a row: next(n) is in 0 .. n-1.
local function numbers(seed, row)
  local state = mix(mix(seed) + row) -- mixed: neighbours would have one stream, a place apart
  return function(n)
    state = state + 0x9e3779b97f4a7c15
    return (mix(state) >> 11) % n
  end
end

--- The task: { length (of a row), keys (different ones), values (16), seed (1) }. Keys are the
-- tokens 0 .. keys-1, values come behind them. Its fields: these, `vocab`, `guess` (the loss of who
-- knows nothing), and `far`: a pair that stands further back than this is far away.
function recall.new(options)
  local task = setmetatable({ length = options.length, keys = options.keys,
                              values = options.values or 16, seed = options.seed or 1 }, recall)
  task.vocab, task.guess, task.far = task.keys + task.values, math.log(task.values),
    task.length // 4
  return task
end

--- Row `number`: its ids; its targets, the value at each key that comes again, -1 elsewhere; and
-- how far back the key stood last.
function recall:row(number)
  local next, ids, wanted, back = numbers(self.seed, number), {}, {}, {}
  local value, last = {}, {} -- of a key
  for i = 1, self.length do
    wanted[i] = -1
    if i % 2 == 1 then
      local key = next(self.keys)
      ids[i], wanted[i], back[i] = key, value[key] or -1, last[key] and i - last[key]
      value[key], last[key] = value[key] or self.keys + next(self.values), i
    else
      ids[i] = value[ids[i - 1]]
    end
  end
  return ids, wanted, back
end

--- Batch `index`, from 1, of so many rows: { input, target }, (rows, length) i32, and `back`, a
-- list of rows. Batches from -1 down are others, to judge on.
function recall:batch(index, rows)
  local input, target, back = {}, {}, {}
  for i = 1, rows do input[i], target[i], back[i] = self:row(index * rows + i) end
  local i32 = { dtype = "i32" }
  return { input = pf.tensor(input, i32), target = pf.tensor(target, i32), back = back }
end

--- Counts one row: of all keys that came again and of those far away, how many are told right.
local function count(sums, best, wanted, back, far)
  for i, id in ipairs(wanted) do
    if id >= 0 then
      local right = best[i] - 1 == id and 1 or 0 -- argmax gives a position, from 1
      local away = back[i] > far and 1 or 0
      sums.right, sums.all = sums.right + right, sums.all + 1
      sums.right_far, sums.all_far = sums.right_far + right * away, sums.all_far + away
    end
  end
end

--- What a model makes of so many batches that it was not trained on: { loss, accuracy,
-- accuracy_far }, the last nil where no pair is far away.
function recall:judge(model, batches, rows)
  local sums, loss = { right = 0, all = 0, right_far = 0, all_far = 0 }, 0
  for index = 1, batches do
    local batch = self:batch(-index, rows)
    local logits = model(batch.input)
    local best, wanted = logits:argmax(-1):totable(), batch.target:totable()
    local before = sums.all
    for i = 1, rows do count(sums, best[i], wanted[i], batch.back[i], self.far) end
    loss = loss + logits:cross_entropy(batch.target):item() * (sums.all - before)
  end
  return { loss = loss / math.max(1, sums.all), accuracy = sums.right / math.max(1, sums.all),
           accuracy_far = sums.all_far > 0 and sums.right_far / sums.all_far or nil }
end

return recall

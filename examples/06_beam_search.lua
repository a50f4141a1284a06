--- 06_beam_search.lua - the likeliest continuation, by streams that are forked and reordered.
--
--   build/release/bin/performer examples/06_beam_search.lua [steps] [beams]
--
-- Rows of letters begin with "a" six times in ten, and then anything follows; or with "b", and
-- then always "cdef". Greedy choice takes "a" and gets lost among unlikely rows. A beam keeps
-- several beginnings alive: one stream holds them all, a row each.
local pf = require "performer"
local nn = pf.nn
local steps, beams = tonumber(arg[1] or 120), tonumber(arg[2] or 4)
pf.open { seed = 6 }
math.randomseed(6)

local letters, length = "^abcdefgh", 5 -- "^" begins a row

local function row()
  if math.random() < 0.4 then return { 0, 2, 3, 4, 5, 6 } end
  local ids = { 0, 1 }
  for i = 3, length + 1 do ids[i] = math.random(3, 8) end
  return ids
end

local function text(ids)
  local parts = {}
  for i, id in ipairs(ids) do parts[i] = letters:sub(id + 1, id + 1) end
  return table.concat(parts)
end

local model = nn.performer { vocab = #letters, dim = 32, layers = 2, heads = 2, causal = true,
                             kernel = { features = 32 } }
local optimizer = pf.optim.adamw(model, { lr = 5e-3 })
for step = 1, steps do
  local rows = {}
  for i = 1, 32 do rows[i] = row() end
  local ids = pf.tensor(rows, { dtype = "i32" })
  local tape <close> = pf.tape()
  local logits = model(ids:slice(2, 1, length), { training = true, step = step })
  local loss = logits:cross_entropy(ids:slice(2, 2, length + 1))
  tape:backward(loss)
  optimizer:step { clip = 1 }
  if step % math.max(1, steps // 4) == 0 then
    print(("step %4d  loss %.3f"):format(step, loss:item()))
  end
end

--- The `width` likeliest rows after "^" and their log-probabilities, best first.
local function search(width)
  local stream <close> = model:stream()
  stream:feed { 0 }
  local found = { { ids = {}, score = 0 } } -- row i of the stream is row i of this list
  for _ = 1, length do
    local log_p, options = stream:logits():reshape(#found, #letters):log_softmax(-1):totable(), {}
    for i, beam in ipairs(found) do
      for id = 0, #letters - 1 do
        options[#options + 1] = { from = i, id = id, score = beam.score + log_p[i][id + 1] }
      end
    end
    table.sort(options, function(a, b) return a.score > b.score end)
    local parents, tokens, kept = {}, {}, {}
    for i = 1, math.min(width, #options) do
      local o = options[i]
      local ids = { table.unpack(found[o.from].ids) }
      ids[#ids + 1] = o.id
      parents[i], tokens[i], kept[i] = o.from, { o.id }, { ids = ids, score = o.score }
    end
    stream:reorder(parents) -- each beam goes on from its parent's state
    stream:feed(tokens)
    found = kept
  end
  return found
end

local greedy, best = search(1)[1], search(beams)
print(("greedy  %s  log p %.3f"):format(text(greedy.ids), greedy.score))
for i, beam in ipairs(best) do
  print(("beam %d  %s  log p %.3f"):format(i, text(beam.ids), beam.score))
end

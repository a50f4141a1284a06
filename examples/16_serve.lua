-- 16_serve.lua - many sequences at once, each at its own place: readers come one by one while the
-- others are being answered, and go when they have their word. A model learns to say the letters
-- that follow one another; served from a running batch, each reader gets what it would get alone.
local pf = require "performer"

pf.seed(7)
math.randomseed(7)
local LETTERS, LENGTH = 26, 40
local model = pf.nn.performer { vocab = LETTERS, dim = 32, layers = 1, heads = 2, length = LENGTH,
                                causal = true, kernel = { name = "relu" } }
local opt = pf.optim.adamw(model, { lr = 1e-2 })

-- Rows begin anywhere in the alphabet and go round; each in steps of 1, 2 or 3 letters.
for _ = 1, 150 do
  local rows = {}
  for b = 1, 16 do
    local at, by = math.random(0, 25), math.random(1, 3)
    rows[b] = {}
    for i = 1, LENGTH do rows[b][i] = (at + i * by) % LETTERS end
  end
  local ids = pf.tensor(rows, { dtype = "i32" })
  local tape <close> = pf.tape()
  tape:backward(model:loss { input = ids:slice(2, 1, -2), target = ids:slice(2, 2, -1) })
  opt:step()
end

local function ids_of(text)
  local ids = {}
  for i = 1, #text do ids[i] = text:byte(i) - 97 end
  return ids
end

local function text_of(ids)
  local letters = {}
  for i, id in ipairs(ids) do letters[i] = string.char(97 + id) end
  return table.concat(letters)
end

-- At step n these come; the last one only wants to get as far as z.
local readers = { [1] = { prompt = "abc", tokens = 10 }, [3] = { prompt = "uwyac", tokens = 12 },
                  [4] = { prompt = "cfilorux", tokens = 6 },
                  [6] = { prompt = "opqrs", stop = ids_of "z" } }
local serving <close> = model:serve { capacity = 8 }
local here, step = {}, 0
repeat
  step = step + 1
  local reader = readers[step]
  if reader then
    local id = serving:join { prompt = ids_of(reader.prompt), tokens = reader.tokens,
                              stop = reader.stop }
    here[id] = { prompt = reader.prompt, from = step, text = "" }
  end
  local made, going = serving:step()
  for _, one in ipairs(made) do
    local it = here[one.id]
    it.text = it.text .. text_of { one.token }
    if one.ended then
      serving:leave(one.id)
      print(("steps %2d to %2d  %s > %s"):format(it.from, step, it.prompt, it.text))
      local alone = model:generate { prompt = ids_of(it.prompt), tokens = #it.text }
      assert(text_of(alone) == it.text) -- bit for bit, whoever else was there
    end
  end
until going == 0 and step > 6

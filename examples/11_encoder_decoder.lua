--- 11_encoder_decoder.lua - an encoder reads a sequence, a decoder says it sorted, one token at a
-- time: models of two sequences, and how a source goes to calls and to generate.
--
--   build/release/bin/performer examples/11_encoder_decoder.lua [steps] [DIGITS]
local pf = require "performer"
local nn = pf.nn
local steps, asked = tonumber(arg[1] or 300), arg[2] or "3141592"
pf.open { seed = 1 }
math.randomseed(1)
local first, stop, longest = 10, 11, 8 -- the tokens beside digits; digits of a row

-- The encoder's `source` is a row of any length; what is shorter than the longest is masked. The
-- decoder reads what was said so far and says the next token: from `first` on, until `stop`.
local function batch(rows)
  local source, mask, input, target = {}, {}, {}, {}
  for b = 1, rows do
    local n, row = math.random(2, longest), {}
    for i = 1, n do row[i] = math.random(0, 9) end
    source[b], mask[b], input[b], target[b] = {}, {}, { first }, {}
    for i = 1, longest do source[b][i], mask[b][i] = row[i] or 0, i <= n and 1 or 0 end
    table.sort(row)
    for i = 1, longest + 1 do
      input[b][i + 1] = row[i] or stop
      target[b][i] = i <= n and row[i] or i == n + 1 and stop or -1 -- -1 is not counted
    end
    input[b][longest + 2] = nil
  end
  local function tensor(t) return pf.tensor(t, { dtype = "i32" }) end
  return { input = tensor(input), target = tensor(target), source = tensor(source),
           source_mask = tensor(mask) }
end

-- Both are Performers of these options; what only one of them is to have stands under its name.
local model = nn.encoder_decoder {
  vocab = 12, dim = 48, layers = 1, heads = 4, length = longest + 1, kernel = { features = 32 },
  encoder = { positions = "none" }, -- where a digit stands does not matter here
  decoder = { layers = 2 },
}
local optimizer = pf.optim.adamw(model, { lr = 3e-3 })
local lr = pf.schedule.cosine { warmup = 20, steps = steps, peak = 3e-3 }
for step = 1, steps do
  local rows = batch(32)
  local tape <close> = pf.tape()
  local loss = model:loss(rows) -- model(rows):cross_entropy(rows.target)
  tape:backward(loss)
  optimizer:step { lr = lr(step), clip = 1 }
  local told = step % math.max(1, steps // 6) == 0
  if told then print(("%5d  loss %.3f"):format(step, loss:item())) end
end

-- A stream runs the encoder once and keeps the sums over its memory, whatever its length.
local source = {}
for digit in asked:gmatch "%d" do source[#source + 1] = tonumber(digit) end
local said = model:generate { source = source, prompt = { first }, stop = stop, temperature = 0,
                              tokens = #source + 1 }
print("given " .. table.concat(source, " "))
print("said  " .. table.concat(said, " "))

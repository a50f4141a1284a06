--- 03_copy_task.lua - a tiny Performer learns to copy a sequence that it saw before, or, with
-- the argument `reverse`, to say it backwards.
--
--   build/release/bin/performer examples/03_copy_task.lua [copy|reverse] [steps]
local pf = require "performer"
local nn = pf.nn
local task, steps = arg[1] or "copy", tonumber(arg[2] or 300)
pf.open { seed = 3 }

-- A row reads  a b c d ... | a b c d ...  and the model says what comes next at every position.
-- Only the half after the bar can be known, so only that is counted: a target of -1 is not.
local symbols, half, rows = 16, 12, 32
local bar = symbols -- token ids count from 0

local function batch()
  local input, target = {}, {}
  for row = 1, rows do
    local line, wanted = {}, {}
    for i = 1, half do
      line[i] = math.random(0, symbols - 1)
      line[half + 1 + (task == "copy" and i or half + 1 - i)] = line[i]
    end
    line[half + 1] = bar
    for i = 1, 2 * half do wanted[i] = i > half and line[i + 1] or -1 end
    line[2 * half + 1] = nil -- nothing comes after it
    input[row], target[row] = line, wanted
  end
  return pf.tensor(input, { dtype = "i32" }), pf.tensor(target, { dtype = "i32" })
end
math.randomseed(3)

local model = nn.performer {
  vocab = symbols + 1, dim = 64, layers = 2, heads = 4, causal = true, length = 2 * half,
  positions = "learned", kernel = { features = 64 },
}
local optimizer = pf.optim.adamw(model, { lr = 3e-3, decay = 0.01 })
local lr = pf.schedule.cosine { warmup = 20, steps = steps, peak = 3e-3 }
print(model)

--- The share of counted positions where the likeliest token is the right one.
local function accuracy(logits, target)
  local best, wanted, right = logits:argmax(-1):totable(), target:totable(), 0
  for r, line in ipairs(wanted) do
    for i, id in ipairs(line) do
      if id == best[r][i] - 1 then right = right + 1 end -- argmax gives a position, from 1
    end
  end
  return right / (rows * half)
end

print(("\n step   loss   right    (guessing: loss %.2f, right %.0f %%)"):format(math.log(symbols),
  100 / symbols))
local began = pf.clock()
for step = 1, steps do
  local input, target = batch()
  local tape <close> = pf.tape()
  local logits = model(input)
  local loss = logits:cross_entropy(target)
  tape:backward(loss)
  optimizer:step { lr = lr(step), clip = 1 }
  if step % math.max(1, steps // 10) == 0 then
    print(("%5d  %5.3f  %5.1f %%"):format(step, loss:item(), 100 * accuracy(logits, target)))
  end
end
print(("%.1f seconds"):format(pf.clock() - began))

-- The proof: a sequence is given up to the bar, and the model goes on by itself, one token at a
-- time, in constant time and memory for each.
local prompt = batch():slice(1, 1, 1):slice(2, 1, half + 1):reshape(half + 1)
local said = model:generate { prompt = prompt, tokens = half, temperature = 0 }
print("\ngiven: " .. table.concat(prompt:totable(), " "))
print("said:  " .. table.concat(said:totable(), " "))

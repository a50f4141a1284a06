--- 15_duplication.lua - what rounds of hashing are for: the Reformer's duplication task (Kitaev et
-- al. 2020, section 5). A row reads 0 w 0 w, and each symbol of the second w has to be found where
-- it stands in the first. LSH attention finds it where the two are in one bucket; each round more
-- of hashing misses fewer. One model, trained with 4 rounds, read with 1, 2, 4 and 8.
--
--   build/release/bin/performer examples/15_duplication.lua [--smoke] [steps]
local pf = require "performer"
local nn = pf.nn
local smoke = arg[1] == "--smoke"
local steps = math.tointeger(arg[smoke and 2 or 1] or (smoke and 300 or 500))
if not steps or steps < 1 then pf.exit(2, "usage: 15_duplication.lua [--smoke] [steps]") end
pf.open { seed = 5 }

local symbols, word, rows = 16, 31, 16 -- symbols 1 .. 16; 0 begins a word
local length = 2 * word + 1            -- what the last symbol is, is only asked

math.randomseed(5)
local function batch()
  local input, target = {}, {}
  for row = 1, rows do
    local line, wanted = { [1] = 0, [word + 2] = 0 }, {}
    for i = 1, word do
      line[1 + i] = math.random(1, symbols)
      line[word + 2 + i] = line[1 + i]
    end
    for i = 1, length do wanted[i] = i > word + 1 and line[i + 1] or -1 end
    line[length + 1] = nil -- nothing comes after it
    input[row], target[row] = line, wanted
  end
  return pf.tensor(input, { dtype = "i32" }), pf.tensor(target, { dtype = "i32" })
end

--- The same model with another number of rounds: its rotations are drawn for its place, and those
--- of fewer rounds are the first of those of more.
local function model_of(rounds)
  pf.seed(5)
  return nn.performer {
    vocab = symbols + 1, dim = 64, layers = 1, heads = 2, causal = true, length = length,
    positions = "learned",
    attention = { name = "lsh", rounds = rounds, buckets = 16, window = 16 },
  }
end

local trained = model_of(4)
local optimizer = pf.optim.adamw(trained, { decay = 0.01 })
local lr = pf.schedule.cosine { warmup = 20, steps = steps, peak = 1e-2 }
local began = pf.clock()
for step = 1, steps do
  local input, target = batch()
  local tape <close> = pf.tape()
  local loss = trained(input, { training = true, step = step }):cross_entropy(target)
  tape:backward(loss)
  optimizer:step { lr = lr(step), clip = 1 }
  if step % math.max(1, steps // 5) == 0 then
    print(("step %4d  loss %.3f"):format(step, loss:item()))
  end
end
print(("trained with 4 rounds, %.0f seconds; guessing is right in %.1f %%"):format(
  pf.clock() - began, 100 / symbols))

local input, target = batch()
for _, rounds in ipairs { 1, 2, 4, 8 } do
  local model, weights = model_of(rounds), trained:tensors()
  for name, tensor in pairs(model:tensors()) do
    if not name:find "rotations$" then tensor:copy_(weights[name]) end
  end
  local seen = model:evaluate { input = input, target = target }
  print(("read with %d round%s  %5.1f %% right"):format(rounds, rounds == 1 and " " or "s",
    100 * seen.right / seen.tokens))
end

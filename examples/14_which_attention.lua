--- 14_which_attention.lua - which attention: what each costs on a long row, what a small model with
-- it recalls after equal steps, and one line of advice from these numbers.
--
--   build/release/bin/performer examples/14_which_attention.lua [--smoke | STEPS] [LENGTH]
--
-- 300 steps and rows of 8,192 take minutes on two cores; --smoke shows in seconds that it runs.
local equal_steps = require "kit.equal_steps"
local pf = require "performer"
local recall = require "kit.recall"
local smoke = arg[1] == "--smoke"
local steps = smoke and 3 or math.tointeger(arg[1] or 300)
if not steps then pf.exit(2, "usage: 14_which_attention.lua [--smoke | STEPS] [LENGTH]") end
local length = math.tointeger(arg[2]) or (smoke and 256 or 8192)
pf.open { seed = 1 }
-- Pairs of a key and its value: a key that comes again asks for what stood behind it. Pairs that
-- stand more than a quarter of the row back are counted apart: near ones a window holds, too.
local task = recall.new { length = smoke and 64 or 512, keys = smoke and 8 or 64 }
local model = { vocab = task.vocab, dim = 64, layers = 2, heads = 2, causal = true,
                positions = "none", token_shift = true, kernel = { features = 64 } }
local function learn(name)
  return equal_steps.train { name = name, model = model, steps = steps, lr = 3e-3,
    batch = function(step) return task:batch(step, smoke and 2 or 8) end,
    judge = function(m) return task:judge(m, smoke and 1 or 8, 8) end }
end

-- Forward and backward over one row with 8 heads of 64, the better of two times.
local rows = {}
for i = 1, 4 do rows[i] = pf.randn(1, 8, length, 64) end
local function cost(name)
  local best, bytes = math.huge, 0
  for _ = 1, 2 do
    local q, k, v = rows[1]:detach(), rows[2]:detach(), rows[3]:detach()
    collectgarbage()
    pf.reset_peak()
    local before, began = pf.memory().live, pf.clock()
    do
      local tape <close> = pf.tape()
      for _, x in ipairs { q, k, v } do x:requires_grad() end
      tape:backward(pf.attention[name](q, k, v, { causal = true }), rows[4])
    end
    best, bytes = math.min(best, pf.clock() - began), pf.memory().peak - before
  end
  return { seconds = best, bytes = bytes }
end

--- How much more a token of a row 16 times as long costs.
local function growth(name)
  local shape = { head_dim = 64, features = 256, causal = true, length = length }
  local forward, backward = pf.attention.flops(name, shape)
  shape.length = 16 * length
  local longer, longer_back = pf.attention.flops(name, shape)
  return (longer + longer_back) / math.max(1, forward + backward)
end
print "attention    seconds        MiB  a token in a row 16 x as long   recalls      far"
local found, slowest, best = {}, 0, 0
for _, kind in ipairs(pf.kinds()) do
  local name = kind.name
  local ok, c, r = pcall(function()
    if kind.edges then error("it goes along the edges of a graph, and rows have none", 0) end
    return cost(name), learn(name)
  end)
  if ok then
    print(("%-9s  %9.4f  %9.1f  %30.1fx  %6.1f %%  %5.1f %%"):format(name, c.seconds,
      c.bytes / (1 << 20), growth(name), 100 * r.accuracy, 100 * r.accuracy_far))
    found[#found + 1] = { name = name, seconds = c.seconds, far = r.accuracy_far }
    slowest, best = math.max(slowest, c.seconds), math.max(best, r.accuracy_far)
  else
    if type(c) ~= "string" or pf.interrupted() then error(c, 0) end
    print(("%-9s  left out: %s"):format(name, (c:gsub("^[^\n]-%.lua:%d+: ", ""))))
  end
end

-- The cheapest of those that recall nearly as much as the best.
table.sort(found, function(a, b) return a.seconds < b.seconds end)
local i = 1; while found[i].far < 0.9 * best do i = i + 1 end
print(best < 2 / task.values and "\nadvice: train longer: none recalls more than a guess yet"
  or ("\nadvice: for rows of %d take %s: it recalls %.0f %% of what is far away (the best: %.0f "
    .. "%%) in %.3f of the slowest one's time"):format(length, found[i].name, 100 * found[i].far,
    100 * best, found[i].seconds / slowest))

--- 10_classifier.lua - a Performer reads a line and says which kind it is of.
--
--   build/release/bin/performer examples/10_classifier.lua [FILE|-] [steps] [TEXT]
--
-- FILE has a line a sample, "label<TAB>text": proteins with their family, messages with their
-- topic. Every fifth line is held back. Without one, it tells times, prices and addresses apart.
local pf = require "performer"
local nn = pf.nn
local path, steps, asked = arg[1] or "-", tonumber(arg[2] or 60), arg[3]
pf.open { seed = 3 }
math.randomseed(3)
local longest = 256 -- bytes of a text that are read

local lines, r = {}, math.random
for line in io.lines(path ~= "-" and path or "/dev/null") do lines[#lines + 1] = line end
for i = 1, path == "-" and 200 or 0 do
  lines[3 * i] = ("time\t%02d:%02d:%02d"):format(r(0, 23), r(0, 59), r(0, 59))
  lines[3 * i - 1] = ("price\t%d.%02d EUR"):format(r(0, 9999), r(0, 99))
  lines[3 * i - 2] = ("address\t%d.%d.%d.%d"):format(r(255), r(255), r(255), r(255))
end

-- Samples are {text, class}; classes count from 0.
local names, class, learn, test = {}, {}, {}, {}
for n, line in ipairs(lines) do
  local label, text = line:match "^([^\t]+)\t(.+)$"
  assert(label, "a line must be label<TAB>text, not: " .. line)
  if not class[label] then names[#names + 1], class[label] = label, #names end
  table.insert(n % 5 == 0 and test or learn, { text, class[label] })
end
assert(#test > 0 and #names > 1, "five lines at least, of several labels")

--- Samples as one batch: ids to the longest of them, and a mask of what is there.
local function batch(samples)
  local length, input, mask, target = 1, {}, {}, {}
  for _, s in ipairs(samples) do length = math.max(length, math.min(#s[1], longest)) end
  for b, s in ipairs(samples) do
    input[b], mask[b], target[b] = {}, {}, s[2]
    for i = 1, length do input[b][i], mask[b][i] = s[1]:byte(i) or 0, i <= #s[1] and 1 or 0 end
  end
  local i32 = { dtype = "i32" }
  return { input = pf.tensor(input, i32), mask = pf.tensor(mask, i32),
           target = pf.tensor(target, i32) }
end

local trunk = nn.performer { vocab = 256, dim = 32, layers = 2, heads = 4, length = longest }
local model = nn.classifier { trunk = trunk, classes = #names, pool = "attention" }
local optimizer = pf.optim.adamw(model, { lr = 3e-3 })
for step = 1, steps do
  local samples = {}
  for i = 1, 16 do samples[i] = learn[math.random(#learn)] end
  local tape <close> = pf.tape()
  local loss = model:loss(batch(samples)) -- cross entropy with batch.target
  tape:backward(loss)
  optimizer:step { clip = 1 }
  local told = step % math.max(1, steps // 5) == 0
  if told then print(("%4d  loss %.3f"):format(step, loss:item())) end
end

local right = 0
for _, s in ipairs(test) do -- argmax gives a position, from 1
  if model(batch { s }):argmax(-1):totable()[1] - 1 == s[2] then right = right + 1 end
end
print(("held back: %d of %d right, %d classes"):format(right, #test, #names))
if asked then print(asked, names[model(batch { { asked, 0 } }):argmax(-1):totable()[1]]) end

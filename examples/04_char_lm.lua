--- 04_char_lm.lua - a model of characters with a training loop of one's own.
--
--   build/release/bin/performer examples/04_char_lm.lua [FILE|-] [steps]
--
-- Without a file (or with -) it learns the paragraph below, by heart. For real work there is
-- `performer train`; this is what to start from when that does not do what you want.
local pf = require "performer"
local path, steps = arg[1] or "-", tonumber(arg[2] or 250)
pf.open { seed = 1 }
math.randomseed(1)

local text = [[
A transformer reads a sequence by letting every position look at every other one. That is what
makes it strong, and what makes it slow: twice the length is four times the work. A Performer
looks at the same positions through random features. It keeps one sum over all keys and asks that
sum, so twice the length is twice the work, and a stream of tokens needs the same memory after a
million of them as after one. What it sees is an estimate. The more features, the better it is.
]]
if path ~= "-" then
  local file, message = io.open(path, "rb")
  if not file then pf.exit(1, message) end
  text = file:read "a"
  file:close()
end

-- Text to token ids. The last tenth is held back when there is enough of it: the model never
-- trains on that, so its loss there tells learning from learning by heart.
local tokenizer = pf.tokenizer.byte()
local ids = assert(tokenizer:encode(text))
local length, rows = 128, 8
local held = ids:numel() >= 20 * length and ids:numel() // 10 or 0
local last = ids:numel() - held
if last < length + 1 then pf.exit(2, ("the text needs at least %d bytes"):format(length + 1)) end

--- `n` windows of ids[first .. final] and the same windows one further on: what comes next.
local function windows(n, first, final)
  local input, target = {}, {}
  for row = 1, n do
    local at = math.random(first, final - length)
    input[row] = ids:slice(1, at, at + length - 1):reshape(1, length)
    target[row] = ids:slice(1, at + 1, at + length):reshape(1, length)
  end
  return pf.concat(input, 1), pf.concat(target, 1)
end

-- No positions: a short convolution and looking back only tell the order of characters, and the
-- model can go on beyond the length that it was trained on.
local model = pf.nn.performer {
  vocab = tokenizer:size(), dim = 96, layers = 2, heads = 4, causal = true, conv = 4,
  positions = "none", kernel = { features = 64 },
}
local optimizer = pf.optim.adamw(model, { lr = 4e-3, decay = 0.05 })
local lr = pf.schedule.cosine { warmup = steps // 10, steps = steps, peak = 4e-3, floor = 2e-4 }
print(("%d bytes, %d held back; %d parameters"):format(ids:numel(), held, model:count()))

for step = 1, steps do
  local input, target = windows(rows, 1, last)
  local tape <close> = pf.tape() -- what is made from here on is freed at `end`
  -- `training` turns dropout on; `step` keys its draws, so that a run can be repeated.
  local loss = model(input, { training = true, step = step }):cross_entropy(target)
  tape:backward(loss)
  local norm = optimizer:step { lr = lr(step), clip = 1 } -- also clears the gradients
  if step == 1 or step % math.max(1, steps // 10) == 0 then
    local line = ("step %4d  loss %.3f nats a byte  gradient %.2f"):format(step, loss:item(), norm)
    if held > length then
      input, target = windows(rows, last + 1, ids:numel())
      line = line .. ("  held back %.3f"):format(model(input):cross_entropy(target):item())
    end
    print(line)
  end
end

-- Generation: one token at a time, each as soon as it is drawn.
local prompt = text:sub(1, 21)
io.stdout:write("\n", prompt)
model:generate { prompt = prompt, tokenizer = tokenizer, tokens = 300, temperature = 0.3, seed = 1,
  each = function(id) io.stdout:write(tokenizer:decode { id }):flush() end }
print()

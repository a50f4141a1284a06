-- 12_pretrained.lua - a trained Transformer of another program, run with FAVOR+ attention.
--
--   build/release/bin/performer examples/12_pretrained.lua FOLDER [VOCABULARY] [steps]
--
-- FOLDER holds config.json and model.safetensors of a causal model, as of llama2.c or GPT-2; such
-- small ones are karpathy's tinyllamas. VOCABULARY is llama2.c's tokenizer.bin, to read what it
-- writes (- for none). The model is measured on texts of its own, so that no data are needed: with
-- the exact attention it was trained with, at once with random features in its place, and after a
-- short fine-tuning of all weights on other texts of the exact model.
local pf = require "performer"
local folder, vocabulary, steps = arg[1], arg[2] or "-", tonumber(arg[3] or 100)
if not folder then pf.exit(2, "name a folder with config.json and model.safetensors") end
pf.open { seed = 1 }

local function need(value, message)
  if value == nil then pf.exit(1, message) end
  return value
end

-- The names of the file become the model's, and its sizes the options of nn.performer.
local exact, report, scheme = pf.weights.open(folder)
need(exact, report)
local options = exact:options()
print(("%s: %s, %d parameters, %d tensors loaded"):format(folder, scheme, exact:count(),
  #report.loaded))

local tokenizer = vocabulary ~= "-" and need(pf.tokenizer.llama2c(vocabulary))
local begin = 1 -- the id that its texts begin with
local length = math.min(exact:longest(), options.length, 128)

--- `rows` texts of the exact model, as ids (rows, length + 1).
local function write(rows, seed)
  local stream = exact:stream { batch = rows }
  local ids, last = { pf.full({ rows, 1 }, begin, { dtype = "i32" }) }, {}
  for row = 1, rows do last[row] = begin end
  for i = 1, length do
    last = stream:next(last, { temperature = 1, seed = i == 1 and seed or nil })
    ids[i + 1] = pf.tensor(last, { dtype = "i32" }):reshape(rows, 1)
  end
  return pf.concat(ids, 2)
end

--- Loss in nats a token of texts.
local function loss_of(model, ids, pass)
  return model(ids:slice(2, 1, length), pass):cross_entropy(ids:slice(2, 2, length + 1))
end

local held, texts = write(16, 1), write(64, 2)
if tokenizer then print(tokenizer:decode(held:slice(1, 1, 1)):gsub("\n.*", "") .. " ...") end
local figures = { { "exact, as it was trained", loss_of(exact, held):item() } }

-- The same weights, and only what the features need is drawn. More features cost more and err less.
local favor = need(pf.weights.open(folder, {
  model = { attention = "favor", kernel = { name = "softmax", features = 64, seed = 1 } } }))
figures[2] = { "FAVOR+ at once", loss_of(favor, held):item() }

local optimizer = pf.optim.adamw(favor, { lr = 1e-3, decay = 0 })
local lr = pf.schedule.cosine { warmup = steps // 10, steps = steps, peak = 1e-3, floor = 1e-4 }
for step = 1, steps do
  local first = (step - 1) % 8 * 8 + 1
  local tape <close> = pf.tape()
  tape:backward(loss_of(favor, texts:slice(1, first, first + 7), { training = true, step = step }))
  optimizer:step { lr = lr(step), clip = 1 }
end
figures[3] = { ("FAVOR+ after %d steps"):format(steps), loss_of(favor, held):item() }

print(("\n%-26s nats a token, on %d tokens that the exact model wrote"):format("", 16 * length))
for _, figure in ipairs(figures) do print(("%-26s %.3f"):format(figure[1], figure[2])) end

--- strided_fixed.lua - the two patterns of the Sparse Transformer, on what each was made for.
-- Strided attention sees the last keys and every so many-th one before them: of a picture whose row
-- is the stride, the pixels before this one and the column above it. Fixed attention sees its own
-- block and the last keys of all blocks, which can sum up what stands before them: for text, where
-- no column means anything. Which of the two is better turns round from one to the other.
--
--   performer examples/paper/strided_fixed.lua --text book.txt --pictures train-images-idx3-ubyte
--
-- Data: a text; pictures as .npy or IDX (see pictures.lua).
local evaluate = require "kit.evaluate"
local kit = require "kit"
local pf = require "performer"
local picture_file = require "picture_file"
local svg = require "kit.svg"

local SIZES = {
  doc = { dim = "model width", layers = "blocks", heads = "attention heads",
          lr = "peak learning rate", length = "text: bytes a row",
          stride = "text: stride, or block",
          last = "text: fixed: keys at the end of each block", batch = "text: rows a step",
          steps = "text: training steps",
          picture_last = "pictures: fixed: keys at the end of each row",
          picture_batch = "pictures: a step", picture_steps = "pictures: training steps",
          limit = "rows that loss is measured on", seeds = "trainings of each, whose mean counts",
          points = "measurements of a curve" },
  smoke = { dim = 16, layers = 1, heads = 2, lr = 4e-3, length = 64, stride = 8, last = 2,
            batch = 2, steps = 4, picture_last = 2, picture_batch = 2, picture_steps = 4, limit = 2,
            seeds = 1, points = 2 },
  quick = { dim = 64, layers = 2, heads = 4, lr = 3e-3, length = 1024, stride = 128, last = 32,
            batch = 2, steps = 300, picture_last = 4, picture_batch = 4, picture_steps = 160,
            limit = 16, seeds = 1, points = 5 },
  full = { dim = 128, layers = 4, heads = 4, lr = 2e-3, length = 2048, stride = 128, last = 32,
           batch = 4, steps = 3000, picture_last = 4, picture_batch = 8, picture_steps = 2000,
           limit = 100, seeds = 3, points = 10 },
}

--- The two, and dense attention beside them; `paper`: bits a byte of enwik8 and bits a dimension
-- of CIFAR-10 (Child et al. 2019, table 1).
local CASES = {
  { name = "exact", paper = { text = "1.00", pictures = "2.82" },
    own = function() return nil end },
  { name = "fixed", paper = { text = "0.99", pictures = "2.85" },
    own = function(data) return { stride = data.stride, last = data.last } end },
  { name = "strided", paper = { text = "1.13", pictures = "2.80" },
    own = function(data) return { stride = data.stride } end },
}

-- ---- data ----

--- Text: { what, unit, vocab, length, stride, last, steps, batch(step), loss(model) in nats }.
local function text_data(o)
  local data = kit.need(pf.data.open { path = o.text or kit.made_up_text(20000),
                                       length = o.length, seed = o.seed })
  return {
    what = "text", unit = "bits a byte", vocab = data:tokenizer():size(), length = o.length,
    stride = o.stride, last = o.last, steps = o.steps,
    batch = function(step)
      return data:batch { index = step, size = o.batch, split = "train", seed = o.seed }
    end,
    loss = function(model)
      return evaluate.run(model, data, { batch = o.batch, limit = o.limit // o.batch }).loss
    end,
  }
end

--- Pictures, in the same form; the stride is a row.
local function picture_data(o)
  local train, valid = picture_file.pair(o.pictures, o.valid)
  return {
    what = "pictures", unit = "bits a dimension", vocab = picture_file.VOCAB, length = #train[1],
    stride = train.width * train.channels, last = o.picture_last, steps = o.picture_steps,
    batch = function()
      local list = {}
      for i = 1, o.picture_batch do list[i] = train[math.random(train.count)] end
      return picture_file.batch(list)
    end,
    loss = function(model)
      local sum, n = 0, math.min(o.limit, valid.count)
      for i = 1, n do
        local batch = picture_file.batch { valid[i] }
        sum = sum + model(batch):cross_entropy(batch.target):item()
        collectgarbage()
      end
      return sum / n
    end,
  }
end

-- ---- one of them ----

--- Trains one attention on one kind of data: { bits, seconds, curve }.
local function run(o, case, data, seed)
  pf.seed(seed)
  math.randomseed(seed)
  local model = pf.nn.performer { vocab = data.vocab, dim = o.dim, layers = o.layers,
    heads = o.heads, causal = true, length = data.length, attention = case.name,
    attention_options = case.own(data) }
  local curve = {}
  local _, seconds, broken = kit.train { model = model, label = data.what .. ", " .. case.name,
    steps = data.steps, lr = o.lr, points = o.points, loss = kit.language_loss,
    batch = data.batch,
    each = function(step) curve[#curve + 1] = { step, data.loss(model) / math.log(2) } end }
  return { bits = broken and math.huge or curve[#curve][2], seconds = seconds, curve = curve }
end

--- How many keys a query sees, on average, beside all that stand before it.
local function keys_seen(case, data)
  local own, L = case.own(data), data.length
  if not own then return (L + 1) / 2 end
  return pf.pattern[case.name](own):count(L, { causal = true }) / L
end

--- All of them on one kind of data: a table, lines of a picture, mean bits by name.
local function compare(o, data)
  kit.print("\n%s: rows of %d, stride %d, of which fixed sums up in the last %d; %d steps",
            data.what, data.length, data.stride, data.last, data.steps)
  local rows, series, bits = {}, {}, {}
  for i, case in ipairs(CASES) do
    local found, seconds, curve = {}, 0, nil
    for n = 1, o.seeds do
      local result = run(o, case, data, o.seed + n - 1)
      found[n], seconds, curve = result.bits, seconds + result.seconds, curve or result.curve
    end
    bits[case.name] = kit.mean(found)
    rows[i] = { case.name, kit.spread(found, 3), case.paper[data.what],
                ("%.0f"):format(keys_seen(case, data)), ("%.1f"):format(seconds / o.seeds) }
    series[i] = { name = case.name, points = curve }
  end
  kit.table({ "attention", data.unit, "paper", "keys a query sees", "s" }, rows)
  return svg.chart { title = data.what, x = "step", y = data.unit, series = series }, bits
end

kit.main(function()
  local o = kit.options { name = "strided_fixed", sizes = SIZES, takes = "about two hours on two "
    .. "cores", about = "Strided against fixed sparse attention, on text and on pictures.",
    data = { { "text", "a text" }, { "pictures", ".npy (uint8) or IDX" },
             { "valid", "pictures to validate on" } } }
  local one, text = compare(o, text_data(o))
  local other, pictures = compare(o, picture_data(o))
  kit.file(".svg", svg.panels({ one, other }, 2))
  kit.verdict(text.fixed < text.strided and pictures.strided < pictures.fixed,
    "text: fixed %.3f, strided %.3f bits; pictures: fixed %.3f, strided %.3f", text.fixed,
    text.strided, pictures.fixed, pictures.strided)
end)

--- proteins.lua - the paper's main experiment, small: language models of proteins, causal and
-- masked, with exact attention, FAVOR+ (softmax) and ReLU features, all of one size, on the same
-- data for the same steps, from several seeds. How well do they know the next (or a hidden) amino
-- acid in training, in validation, and out of the distribution they were trained on?
--
--   performer examples/paper/proteins.lua --data train.fasta --valid valid.fasta --other o.fasta
--
-- Data: UniProt sequences (Debian's mmseqs2-examples holds 20,000; several files: `cat *.fasta |
-- performer ... --data -`); another distribution, such as one organism's proteome (Debian's prokka,
-- db/genus/Escherichia). Without --valid a part of --data is held out.
local evaluate = require "kit.evaluate"
local kit = require "kit"
local pf = require "performer"
local svg = require "kit.svg"

local SIZES = {
  doc = { dim = "model width", layers = "blocks", heads = "attention heads", batch = "rows a step",
          features = "random projections of softmax", length = "tokens a row",
          steps = "training steps", seeds = "models of each kind", lr = "peak learning rate",
          limit = "batches that accuracy is measured on", dropout = "share dropped in training",
          qk_norm = "1: norms on queries and keys, for all kinds" },
  smoke = { dim = 32, layers = 1, heads = 2, features = 16, length = 64, batch = 2, steps = 8,
            seeds = 2, lr = 3e-3, limit = 2, dropout = 0.0, qk_norm = 0 },
  quick = { dim = 64, layers = 2, heads = 4, features = 64, length = 256, batch = 8, steps = 300,
            seeds = 2, lr = 3e-3, limit = 12, dropout = 0.0, qk_norm = 0 },
  full = { dim = 128, layers = 3, heads = 8, features = 64, length = 512, batch = 4, steps = 2400,
           seeds = 3, lr = 2e-3, limit = 60, dropout = 0.0, qk_norm = 0 },
}

--- What the paper has: accuracy % in distribution (test) and out of it, of 36 layers of width 512
-- on TrEMBL, L = 1024 (Table 2).
local PAPER = {
  counting = { "9.92", "9.07" },
  causal = { exact = { "30.80", "19.70" }, ReLU = { "31.58", "18.44" } },
  masked = { exact = { "33.32", "25.07" }, softmax = { "33.00", "23.48" },
             ReLU = { "36.09", "24.10" } },
}
local WAYS = { "causal", "masked" }
local KINDS = { "exact", "softmax", "ReLU" }
local COLOURS = { exact = "#000000", softmax = "#0072b2", ReLU = "#d55e00" }

--- No n-grams, convolutions or decay: they help all kinds, and would hide the kernel.
local function make_model(o, data, kind, causal)
  local exact = kind == "exact"
  return pf.nn.performer {
    vocab = data:tokenizer():size(), dim = o.dim, layers = o.layers, heads = o.heads,
    length = o.length, causal = causal, dropout = o.dropout, qk_norm = o.qk_norm == 1,
    attention = exact and "exact" or "favor",
    kernel = not exact and { name = kind:lower(), features = kind == "softmax" and o.features or 0 }
      or nil,
  }
end

--- The sets that accuracy is measured on: { name, data, split }.
local function open_sets(o)
  local train = o.data or kit.made_up_proteins(200)
  local data = kit.need(pf.data.fasta { path = train, length = o.length })
  local sets = { { "train", data, "train" } }
  local function add(name, path)
    sets[#sets + 1] = { name, kit.need(pf.data.fasta { path = path, length = o.length,
                                                       split = "none" }), "all" }
  end
  if o.valid then add("valid", o.valid) else sets[2] = { "valid", data, "valid" } end
  if o.other then add("other", o.other) end
  return data, sets
end

--- Trains one model: { train, valid, other } as evaluate.run gives them, and its curve.
local function run(o, data, sets, kind, causal, seed)
  pf.seed(seed)
  local model = make_model(o, data, kind, causal)
  local curve = { train = {}, valid = {} }
  local function measure(set, limit)
    return evaluate.run(model, set[2], { split = set[3], batch = o.batch, masked = not causal,
                                         limit = limit })
  end
  local _, seconds = kit.train { model = model, steps = o.steps, lr = o.lr, points = 8,
    label = ("%s %s, seed %d"):format(causal and "causal" or "masked", kind, seed),
    batch = function(step)
      return data:batch { index = step, size = o.batch, masked = not causal, seed = seed }
    end,
    loss = kit.language_loss,
    each = function(step)
      for i, name in ipairs { "train", "valid" } do
        local accuracy = 100 * measure(sets[i], math.ceil(o.limit / 4)).accuracy
        table.insert(curve[name], { step, accuracy })
      end
    end }
  local result = { curve = curve, params = model:count(), seconds = seconds }
  for _, set in ipairs(sets) do result[set[1]] = measure(set, o.limit) end
  return result
end

--- The column `field` of `set` over the seeds.
local function values(results, set, field)
  local list = {}
  for i, result in ipairs(results) do list[i] = result[set][field] end
  return list
end

--- What counting gets on a set: always the commonest letter of the training part, and its shares.
local function count_letters(data, set)
  local seen, asked = data:counts("train").unigram, set[2]:counts(set[3]).unigram
  local begin = data:tokenizer():special "begin" + 1 -- never asked for
  local total, tokens, best, cost = 0, 0, 1, 0
  seen[begin], asked[begin] = 0, 0
  for id, n in ipairs(seen) do
    total, tokens = total + n + 0.5, tokens + asked[id]
    if n > seen[best] then best = id end
  end
  for id, n in ipairs(asked) do cost = cost + n * math.log(total / (seen[id] + 0.5)) end
  return { accuracy = asked[best] / tokens, perplexity = math.exp(cost / tokens) }
end

local function print_table(all, data, sets)
  local function column(results, set, field, scale)
    return results[1][set] and kit.spread(values(results, set, field), 2, scale) or "-"
  end
  local counted = {}
  for _, set in ipairs(sets) do counted[set[1]] = count_letters(data, set) end
  local rows = { { "counting", "none", column({ counted }, "train", "accuracy", 100),
    column({ counted }, "valid", "accuracy", 100), PAPER.counting[1],
    column({ counted }, "valid", "perplexity"),
    column({ counted }, "other", "accuracy", 100), PAPER.counting[2], "-", "-" } }
  for _, entry in ipairs(all) do
    local r, paper = entry.results, PAPER[entry.way][entry.kind] or { "-", "-" }
    rows[#rows + 1] = { entry.way, entry.kind, column(r, "train", "accuracy", 100),
      column(r, "valid", "accuracy", 100), paper[1], column(r, "valid", "perplexity"),
      column(r, "other", "accuracy", 100), paper[2], ("%.1f"):format(r[1].seconds), r[1].params }
  end
  kit.table({ "model", "attention", "train %", "valid %", "paper's test %", "valid perplexity",
              "other %", "paper's other %", "s", "parameters" }, rows)
end

local function draw(all)
  local series = {}
  for _, entry in ipairs(all) do
    local mean = { train = {}, valid = {} }
    for name, points in pairs(mean) do
      for i, point in ipairs(entry.results[1].curve[name]) do
        local sum = 0
        for _, result in ipairs(entry.results) do sum = sum + result.curve[name][i][2] end
        points[i] = { point[1], sum / #entry.results }
      end
    end
    local colour, masked = COLOURS[entry.kind], entry.way == "masked"
    series[#series + 1] = { name = ("%s (%s)"):format(entry.kind, masked and "B" or "U"),
                            points = mean.valid, colour = colour, marks = masked }
    series[#series + 1] = { points = mean.train, colour = colour, dashed = true }
  end
  kit.file(".svg", svg.chart { x = "step", y = "accuracy, %", series = series,
    title = "Proteins: train dashed, validation solid; causal (U), masked (B, dots)" })
end

kit.main(function()
  local o = kit.options { name = "proteins", sizes = SIZES,
    takes = "an hour and a half on two busy cores",
    about = "Protein language models with exact, softmax and ReLU attention.",
    data = { { "data", "FASTA to train on; - for the standard input" },
             { "valid", "FASTA to validate on (default: a part of --data)" },
             { "other", "FASTA of another distribution" } },
    rows = { { "way", WAYS, nil, "only causal or only masked models (default: both)",
               group = "Run" } } }
  local ways = o.way and { o.way } or WAYS
  local data, sets = open_sets(o)
  kit.print("%d training sequences, rows of %d, %d steps of %d rows, %d seeds",
            data:info("train").documents, o.length, o.steps, o.batch, o.seeds)
  local all, by = {}, {}
  for _, way in ipairs(ways) do
    by[way] = {}
    for _, kind in ipairs(KINDS) do
      local results = {}
      for i = 1, o.seeds do
        results[i] = run(o, data, sets, kind, way == "causal", o.seed + i - 1)
      end
      by[way][kind] = results
      all[#all + 1] = { way = way, kind = kind, results = results }
    end
  end
  print_table(all, data, sets)
  draw(all)
  local beats, texts = true, {}
  for _, way in ipairs(ways) do
    local relu, s1 = kit.mean(values(by[way].ReLU, "valid", "accuracy"))
    local exact, s2 = kit.mean(values(by[way].exact, "valid", "accuracy"))
    beats = beats and relu >= exact
    texts[#texts + 1] = ("%s ReLU %+.2f ± %.2f points"):format(way, 100 * (relu - exact),
                                                               100 * math.sqrt(s1 ^ 2 + s2 ^ 2))
  end
  kit.verdict(beats, "%s beside exact attention on validation", table.concat(texts, ", "))
end)

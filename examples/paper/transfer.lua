--- transfer.lua - a trained Transformer becomes a Performer: its weights are put under FAVOR+ as
-- they are. How much of its accuracy is there at once, and how soon is the rest back, beside a
-- Performer that begins anew? For each softmax map and ReLU; without norms on queries and keys,
-- with them (on), and with norms that begin short (|x|^2 = 2 for x = d^(-1/4) q): their lengths
-- decide how far the estimate is off.
--
--   performer examples/paper/transfer.lua --data book.txt
--
-- Data: any text (a novel of Project Gutenberg, tinyshakespeare, ...) or FASTA file.
local evaluate = require "kit.evaluate"
local kit = require "kit"
local pf = require "performer"
local svg = require "kit.svg"

local SIZES = {
  doc = { dim = "model width", layers = "blocks", heads = "attention heads", batch = "rows a step",
          features = "random projections", length = "tokens a row", lr = "peak learning rate",
          steps = "steps of the Transformer", recover = "steps of each Performer",
          limit = "batches that accuracy is measured on", points = "measurements of a curve" },
  smoke = { dim = 16, layers = 1, heads = 2, features = 16, length = 48, batch = 2, steps = 8,
            recover = 4, lr = 4e-3, limit = 1, points = 2 },
  quick = { dim = 64, layers = 2, heads = 4, features = 64, length = 256, batch = 4, steps = 1200,
            recover = 120, lr = 4e-3, limit = 6, points = 8 },
  full = { dim = 128, layers = 4, heads = 4, features = 128, length = 256, batch = 8, steps = 2000,
           recover = 200, lr = 3e-3, limit = 12, points = 10 },
}

local MAPS = { "softmax", "softmax_hyp", "softmax_reg", "softmax_plus", "softmax_trig", "relu" }

local NORMS = { "off", "on", "short" }

--- A causal model; `map` nil: the exact Transformer, whose norms begin with every channel 1, which
-- is |x|^2 = sqrt(d), unless they are to be short.
local function make_model(o, data, map, norm, features)
  local model = pf.nn.performer {
    vocab = data:tokenizer():size(), dim = o.dim, layers = o.layers, heads = o.heads, causal = true,
    length = o.length, qk_norm = norm ~= "off", attention = map and "favor" or "exact",
    kernel = map and { name = map, features = map ~= "relu" and features or 0 } or nil,
  }
  for name, tensor in pairs(norm == "short" and model:tensors() or {}) do
    if name:find "[qk]_norm$" then tensor:fill_(math.sqrt(2) * (o.dim / o.heads) ^ -0.25) end
  end
  return model
end

--- The weights of one model in another of the same shape; projections stay as they were drawn.
local function take_weights(to, from)
  kit.need(pf.weights.load(to, from, { buffers = false }))
  return to
end

local function accuracy(o, model, data)
  return 100 * evaluate.run(model, data, { batch = o.batch, limit = o.limit }).accuracy
end

--- Is step `step` of `steps` one to measure at? o.points are of any run; the Transformer's own are
-- far apart beside a Performer's, so where the picture shows both it is measured where those are.
local function is_due(o, step, steps)
  local function on_grid(of) return step * o.points // of > (step - 1) * o.points // of end
  return on_grid(steps) or (step <= 2 * o.recover and on_grid(o.recover))
end

--- Trains for so many steps; the curve of accuracy over them, its beginning included.
local function train(o, model, data, label, steps, seed)
  local curve = { { 0, accuracy(o, model, data) } }
  kit.train { model = model, label = label, steps = steps, lr = o.lr, points = steps,
    loss = kit.language_loss,
    batch = function(step) return data:batch { index = step, size = o.batch, seed = seed } end,
    each = function(step)
      if is_due(o, step, steps) then curve[#curve + 1] = { step, accuracy(o, model, data) } end
    end }
  return curve
end

local function last(curve) return curve[#curve][2] end

--- The first step at which a curve has come to `least`, by its measurements; nil: never.
local function reached(curve, least)
  for _, point in ipairs(curve) do
    if point[2] >= least then return point[1] end
  end
end

--- One map under one Transformer's weights.
local function transfer(o, data, teacher, map, norm)
  local name = ("%s, qk-norm %s"):format(map, norm)
  local wide = take_weights(make_model(o, data, map, norm, 4 * o.features), teacher)
  local entry = { map = map, norm = norm, wide = accuracy(o, wide, data) }
  local model = take_weights(make_model(o, data, map, norm, o.features), teacher)
  entry.curve = train(o, model, data, name, o.recover, o.seed + 1)
  entry.fresh = train(o, make_model(o, data, map, norm, o.features), data, name .. ", fresh",
                      o.recover, o.seed + 1)
  return entry
end

local function print_table(o, teachers, entries)
  local rows = {}
  for _, norm in ipairs(NORMS) do
    local curve = teachers[norm].curve
    rows[#rows + 1] = { "exact (the Transformer)", norm, "-", "-", ("%.2f"):format(last(curve)),
                        "-", ("%.0f %% after %d"):format(100, o.steps) }
    for _, e in ipairs(entries) do
      if e.norm == norm then
        rows[#rows + 1] = { e.map, norm, ("%.2f"):format(e.curve[1][2]),
          e.map == "relu" and "-" or ("%.2f"):format(e.wide), ("%.2f"):format(last(e.curve)),
          ("%.2f"):format(last(e.fresh)),
          ("%.0f %% at once, %.0f %% after %d"):format(100 * e.curve[1][2] / last(curve),
            100 * last(e.curve) / last(curve), o.recover) }
      end
    end
  end
  kit.table({ "attention", "qk-norm", "at once %", ("at once, %d features"):format(4 * o.features),
              ("after %d steps"):format(o.recover), "fresh, as many steps",
              "of the Transformer's accuracy" }, rows)
  kit.print("paper: a Transformer of LM1B put under FAVOR+ begins at 7 % accuracy and recovers "
    .. "in a small fraction of its steps (figure 5, left)")
end

local function draw(o, teachers, entries)
  local series = { { name = "exact, from the beginning", points = teachers.off.curve,
                     colour = "#000000" } }
  for _, e in ipairs(entries) do
    if e.map == "softmax" then
      series[#series + 1] = { name = ("softmax, qk-norm %s"):format(e.norm), points = e.curve,
                              marks = true }
    end
    if e.norm == "off" and (e.map == "softmax" or e.map == "relu") then
      series[#series + 1] = { name = e.map .. ", fresh", points = e.fresh, dashed = true }
    end
  end
  local shown = {} -- the Transformer's whole way would leave no room for the others
  for _, point in ipairs(series[1].points) do
    if point[1] <= 2 * o.recover then shown[#shown + 1] = point end
  end
  series[1].points = shown
  series[#series + 1] = { name = ("exact after %d steps"):format(o.steps), dashed = true,
    colour = "#888888", points = { { 0, last(teachers.off.curve) },
                                   { 2 * o.recover, last(teachers.off.curve) } } }
  kit.file(".svg", svg.chart { title = "A Transformer's weights under FAVOR+", x = "step",
                               y = "accuracy, %", series = series })
end

kit.main(function()
  local o = kit.options { name = "transfer", sizes = SIZES, takes = "about an hour on two cores",
    about = "A trained exact Transformer's weights under FAVOR+: accuracy at once, and recovery.",
    data = { { "data", "text or FASTA" } } }
  local path = o.data or kit.made_up_text(20000)
  local data = kit.need(pf.data.open { path = path, length = o.length })
  local teachers, entries = {}, {}
  for _, norm in ipairs(NORMS) do
    pf.seed(o.seed)
    local model = make_model(o, data, nil, norm)
    teachers[norm] = { model = model, curve = train(o, model, data, "exact, qk-norm " .. norm,
                                                    o.steps, o.seed) }
    for _, map in ipairs(MAPS) do
      entries[#entries + 1] = transfer(o, data, model, map, norm)
    end
  end
  print_table(o, teachers, entries)
  draw(o, teachers, entries)
  local e = entries[1]
  local goal = last(e.fresh)
  local needed = reached(e.curve, goal)
  kit.verdict(last(e.curve) > goal, "softmax, %.2f %% at once, has %.2f %% after %d steps; begun "
    .. "anew it has %.2f %% then%s; the Transformer had %.2f %% after %d", e.curve[1][2],
    last(e.curve), o.recover, goal, needed and (", which it passes by step %d"):format(needed)
      or "", last(teachers.off.curve), o.steps)
end)

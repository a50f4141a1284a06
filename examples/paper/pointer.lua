--- pointer.lua - a pointer network that plans tours (Kool, van Hoof and Welling 2019), whose
-- weights others trained with exact attention, under FAVOR+: how long do its tours become with so
-- many features? Attention that points at places can't be made sparse; it can be estimated.
--
--   performer examples/paper/pointer.lua --data model.safetensors [--reference r.safetensors]
--
-- Data: the tensors of github.com/wouterkool/attention-learn-to-route, pretrained/tsp_20, under
-- their names, as safetensors; --reference has coords (n, 20, 2) and the published way's length (n)
-- on them. The places of all other tours are drawn at random.
local kit = require "kit"
local pf = require "performer"
local svg = require "kit.svg"

local SIZES = {
  doc = { tours = "tours that are planned", places = "places of a tour",
          draws = "draws of the projections" },
  smoke = { tours = 2, places = 6, draws = 1 },
  quick = { tours = 200, places = 20, draws = 2 },
  full = { tours = 1000, places = 20, draws = 5 },
}

local DIM, HEADS, LAYERS = 128, 8, 3
local HEAD = DIM // HEADS

-- ---- the model ----

--- Random tensors of the model's names and shapes, where there is no file.
local function make_up()
  kit.made_up "weights"
  local w = { W_placeholder = pf.randn(2 * DIM), ["init_embed.weight"] = pf.randn(DIM, 2),
              ["init_embed.bias"] = pf.zeros(DIM),
              ["project_node_embeddings.weight"] = pf.randn(3 * DIM, DIM) * 0.09,
              ["project_fixed_context.weight"] = pf.randn(DIM, DIM) * 0.09,
              ["project_step_context.weight"] = pf.randn(DIM, 2 * DIM) * 0.06,
              ["project_out.weight"] = pf.randn(DIM, DIM) * 0.09 }
  for layer = 0, LAYERS - 1 do
    local at = ("embedder.layers.%d."):format(layer)
    for _, name in ipairs { "W_query", "W_key", "W_val" } do
      w[at .. "0.module." .. name] = pf.randn(HEADS, DIM, HEAD) * 0.09
    end
    w[at .. "0.module.W_out"] = pf.randn(HEADS, HEAD, DIM) * 0.09
    w[at .. "2.module.0.weight"], w[at .. "2.module.0.bias"] = pf.randn(512, DIM) * 0.09,
      pf.zeros(512)
    w[at .. "2.module.2.weight"], w[at .. "2.module.2.bias"] = pf.randn(DIM, 512) * 0.04,
      pf.zeros(DIM)
    for _, norm in ipairs { "1.normalizer.", "3.normalizer." } do
      w[at .. norm .. "weight"], w[at .. norm .. "bias"] = pf.ones(DIM), pf.zeros(DIM)
      w[at .. norm .. "running_mean"], w[at .. norm .. "running_var"] = pf.zeros(DIM), pf.ones(DIM)
    end
  end
  return w
end

--- BatchNorm by its running statistics.
local function norm(w, at, x)
  local scale = w[at .. "weight"] / (w[at .. "running_var"] + 1e-5):sqrt()
  return (x - w[at .. "running_mean"]) * scale + w[at .. "bias"]
end

--- x (B, n, D) by a projection a head, W (H, D, d): (B, H, n, d).
local function heads(x, W)
  return x:reshape(x:size(1), 1, x:size(2), DIM):matmul(W:reshape(1, HEADS, DIM, HEAD))
end

--- What is seen of the places: coords (B, n, 2) -> (B, n, D); attend(q, k, v, mask, layer).
local function encode(w, coords, attend)
  local h = coords:linear(w["init_embed.weight"], { bias = w["init_embed.bias"] })
  for layer = 0, LAYERS - 1 do
    local at = ("embedder.layers.%d."):format(layer)
    local out = attend(heads(h, w[at .. "0.module.W_query"]), heads(h, w[at .. "0.module.W_key"]),
                       heads(h, w[at .. "0.module.W_val"]), nil, layer + 1)
    local W = w[at .. "0.module.W_out"]
    local joined = out:permute(1, 3, 2, 4):reshape(h:size(1), h:size(2), DIM)
    h = norm(w, at .. "1.normalizer.", h + joined:matmul(W:reshape(DIM, DIM)))
    local inner = h:linear(w[at .. "2.module.0.weight"], { bias = w[at .. "2.module.0.bias"] })
    h = norm(w, at .. "3.normalizer.", h + inner:relu():linear(w[at .. "2.module.2.weight"],
      { bias = w[at .. "2.module.2.bias"] }))
  end
  return h
end

--- (B, n, D) -> (B, H, n, d)
local function split(x)
  return x:reshape(x:size(1), x:size(2), HEADS, HEAD):permute(1, 3, 2, 4)
end

--- The rows of h (B, n, D) at places (a list of B, from 1): (B, D).
local function rows_at(h, places)
  local flat = {}
  for b, place in ipairs(places) do flat[b] = (b - 1) * h:size(2) + place - 1 end
  return h:reshape(-1, DIM):embedding(pf.tensor(flat, { dtype = "i32" }))
end

--- Greedy tours of coords (B, n, 2): a list of lists of places, and where the model points first.
local function plan(w, coords, attend)
  local B, n = coords:size(1), coords:size(2)
  local h = encode(w, coords, attend)
  local parts = h:linear(w["project_node_embeddings.weight"])
  local key, value = split(parts:slice(3, 1, DIM)), split(parts:slice(3, DIM + 1, 2 * DIM))
  local logit_key = parts:slice(3, 2 * DIM + 1, 3 * DIM)
  local fixed = h:mean(2):linear(w["project_fixed_context.weight"])
  local tours, open, first_logits = {}, {}, nil
  for b = 1, B do tours[b], open[b] = {}, {} end
  for b = 1, B do
    for i = 1, n do open[b][i] = 1 end
  end
  local first, last
  for step = 1, n do
    local context = step == 1 and w.W_placeholder:reshape(1, 2 * DIM)
      or pf.concat({ rows_at(h, first), rows_at(h, last) }, 2)
    local query = fixed + context:linear(w["project_step_context.weight"])
    local mask = pf.tensor(open, { dtype = "i32" })
    local glimpse = attend(split(query:reshape(B, 1, DIM)), key, value, mask, LAYERS + 1)
    glimpse = glimpse:permute(1, 3, 2, 4):reshape(B, 1, DIM):linear(w["project_out.weight"])
    local logits = (glimpse:matmul(logit_key:transpose(2, 3)) * DIM ^ -0.5):tanh() * 10
    logits = logits:reshape(B, n)
    first_logits = first_logits or logits
    local closed = (pf.zeros(B, n):copy_(mask) - 1) * 1e9
    last = (logits + closed):argmax(-1):totable()
    first = first or last
    for b, place in ipairs(last) do tours[b][step], open[b][place] = place, 0 end
  end
  return tours, first_logits
end

local function length(points, tour)
  local sum = 0
  for i, place in ipairs(tour) do
    local a, b = points[place], points[tour[i % #tour + 1]]
    sum = sum + math.sqrt((a[1] - b[1]) ^ 2 + (a[2] - b[2]) ^ 2)
  end
  return sum
end

--- Always to the nearest place that is left.
local function nearest(points)
  local tour, seen = { 1 }, { [1] = true }
  while #tour < #points do
    local here, best, least = points[tour[#tour]], nil, math.huge
    for i, p in ipairs(points) do
      local d = (p[1] - here[1]) ^ 2 + (p[2] - here[2]) ^ 2
      if not seen[i] and d < least then best, least = i, d end
    end
    tour[#tour + 1], seen[best] = best, true
  end
  return tour
end

local function mean_length(coords, tours)
  local lengths = {}
  for b, points in ipairs(coords:totable()) do
    lengths[b] = length(points, type(tours) == "function" and tours(points) or tours[b])
  end
  return (kit.mean(lengths))
end

-- ---- attention ----

local function exact(q, k, v, mask)
  return pf.attention.exact(q, k, v, { mask = mask })
end

--- FAVOR+ with a projection of its own for each layer.
local function favor(map, features, seed)
  local kernels = {}
  for layer = 1, LAYERS + 1 do
    kernels[layer] = pf.kernel[map] { features = features, head_dim = HEAD, layer = layer,
                                      seed = seed }
  end
  return function(q, k, v, mask, layer)
    return pf.attention.favor(q, k, v, { kernel = kernels[layer], mask = mask })
  end
end

--- How far this forward is from the reference's.
local function compare(w, path)
  local given = kit.need(pf.load(path))
  local tours, logits = plan(w, given.coords, exact)
  local h = encode(w, given.coords, exact)
  local off = mean_length(given.coords, tours) - given.length:mean():item()
  kit.print("reference: encoder off by %.1e, first logits by %.1e, mean tour by %.1e",
            (h - given.encoder_out):abs():max():item(),
            (logits - given.first_logits):abs():max():item(), math.abs(off))
end

kit.main(function()
  local o = kit.options { name = "pointer", sizes = SIZES, takes = "a few minutes",
    about = "A trained pointer network's tours, with exact attention and under FAVOR+.",
    data = { { "data", "model.safetensors of tsp_20" },
             { "reference", "coords, encoder_out, first_logits, length of some tours" } } }
  local w = o.data and kit.need(pf.load(o.data)) or make_up()
  if o.reference then compare(w, o.reference) end
  local coords = pf.rand(o.tours, o.places, 2)
  local judge = mean_length(coords, (plan(w, coords, exact)))
  local greedy = mean_length(coords, nearest)
  local rows = { { "exact", "-", ("%.3f"):format(judge), "-", "3.85" } }
  local series, best = {}, math.huge
  for i, map in ipairs { "softmax", "softmax_hyp", "relu" } do
    series[i] = { name = map, points = {}, marks = true }
    for _, features in ipairs(map == "relu" and { 0 } or { 16, 64, 256, 1024 }) do
      local found = {}
      for draw = 1, features == 0 and 1 or o.draws do
        local tours = plan(w, coords, favor(map, features, o.seed + draw))
        found[draw] = mean_length(coords, tours)
        collectgarbage()
      end
      local mean = kit.mean(found)
      best = math.min(best, mean)
      table.insert(series[i].points, { math.max(features, 16), mean })
      rows[#rows + 1] = { map, features == 0 and "-" or features, kit.spread(found, 3),
                          ("%+.1f %%"):format(100 * (mean / judge - 1)), "-" }
    end
  end
  rows[#rows + 1] = { "the nearest place next", "-", ("%.3f"):format(greedy),
                      ("%+.1f %%"):format(100 * (greedy / judge - 1)), "-" }
  series[#series + 1] = { name = "exact", points = { { 16, judge }, { 1024, judge } },
                          dashed = true }
  kit.print("%d tours of %d places", o.tours, o.places)
  kit.table({ "attention", "features", "mean tour", "longer than exact", "published" }, rows)
  kit.file(".svg", svg.chart { title = "Tours of a pointer network under FAVOR+", log_x = 2,
                               x = "features", y = "mean length", series = series })
  kit.verdict(best < greedy, "FAVOR+ in place of exact attention, not trained on: best mean tour "
    .. "%.3f, exact %.3f, the nearest place next %.3f", best, judge, greedy)
end)

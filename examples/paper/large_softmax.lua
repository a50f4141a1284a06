--- large_softmax.lua - the softmax of a recommender over all of its items, which can't be made
-- sparse: p(item | user) = pop(item) exp(q.k) / sum over all items. FAVOR+ takes that sum in time
-- that does not grow with users times items. Trained by the estimated sum and by the exact one,
-- judged by the exact one on films that users rated later.
--
--   performer examples/paper/large_softmax.lua --data ratings.csv
--
-- Data: a table userId, movieId, rating, timestamp (MovieLens, grouplens.org).
local kit = require "kit"
local pf = require "performer"
local svg = require "kit.svg"

local SIZES = {
  doc = { dim = "width of a vector", features = "random projections", batch = "users a step",
          steps = "training steps", lr = "peak learning rate", norm = "|q|^2 and |k|^2 at most",
          limit = "ratings that are judged", points = "measurements of a curve" },
  smoke = { dim = 8, features = 32, batch = 8, steps = 6, lr = 0.02, norm = 2.0, points = 2,
            limit = 50 },
  quick = { dim = 16, features = 256, batch = 256, steps = 400, lr = 0.02, norm = 2.0, points = 4,
            limit = 512 },
  full = { dim = 32, features = 512, batch = 256, steps = 3000, lr = 0.01, norm = 2.0, points = 15,
           limit = 4000 },
}

-- What is drawn once training learns to deceive: vectors drift to where the estimate is too small.
local CASES = { { "softmax_hyp", "drawn once" }, { "softmax", "drawn each step" },
                { "softmax_hyp", "drawn each step" } }

-- ---- data ----

--- Ratings as { user, item, time }, users and items numbered from 1.
local function read(path)
  local list, users, items, n_users, n_items = {}, {}, {}, 0, 0
  local rows = {}
  if path then
    rows = kit.rows(path)
  else
    kit.made_up "ratings"
    for i = 1, 600 do
      local user = math.random(40)
      rows[i] = { userId = user, movieId = (user % 2) * 30 + math.random(30), rating = 5,
                  timestamp = i }
    end
  end
  for _, row in ipairs(rows) do
    if tonumber(row.rating) >= 3.5 then
      if not users[row.userId] then n_users = n_users + 1 users[row.userId] = n_users end
      if not items[row.movieId] then n_items = n_items + 1 items[row.movieId] = n_items end
      list[#list + 1] = { users[row.userId], items[row.movieId], tonumber(row.timestamp) }
    end
  end
  return list, n_users, n_items
end

--- Each user's items in the order of time; the last tenth is held out, and `limit` of it judged.
local function by_user(list, n_users, limit)
  local train, held = {}, {}
  for user = 1, n_users do train[user] = {} end
  table.sort(list, function(a, b)
    if a[3] ~= b[3] then return a[3] < b[3] end
    return a[2] < b[2]
  end)
  for _, entry in ipairs(list) do table.insert(train[entry[1]], entry[2]) end
  for user, items in ipairs(train) do
    for _ = 1, #items // 10 do held[#held + 1] = { user, table.remove(items) } end
  end
  for i = 1, math.min(limit, #held) do -- any of them, the same at every judgement
    local j = math.random(i, #held)
    held[i], held[j] = held[j], held[i]
  end
  return train, table.move(held, 1, math.min(limit, #held), 1, {})
end

--- Each item's share of the training ratings, as a column (N, 1).
local function popularity(train, n_items)
  local count, total = {}, 0
  for i = 1, n_items do count[i] = 0.5 end
  for _, items in ipairs(train) do
    for _, item in ipairs(items) do count[item] = count[item] + 1 end
  end
  for i = 1, n_items do total = total + count[i] end
  for i = 1, n_items do count[i] = { count[i] / total } end
  return pf.tensor(count)
end

-- ---- model ----

--- Vectors of at most a given square length: rows of a table, shortened where they are longer.
local function bounded(rows, most)
  local square = rows:square():sum(-1, true)
  return rows / (square * (1 / most)):maximum(1):sqrt()
end

--- log of the sum over all items of pop(item) exp(q.k), for queries (n, d): exact, or by features.
local function log_sum(q, k, pop, kernel)
  local n, N, d = q:size(1), k:size(1), q:size(2)
  if not kernel then
    return (q:matmul(k:transpose(1, 2)) + pop:log():reshape(1, N)):logsumexp(-1)
  end
  q, k = q:reshape(1, 1, n, d), k:reshape(1, 1, N, d)
  local z = pf.attention.log_partition(q, k, { kernel = kernel })
  local mean = pf.attention.favor(q, k, pop:reshape(1, 1, N, 1), { kernel = kernel })
  return z:reshape(n) + mean:reshape(n):log()
end

local function ids_of(list)
  local ids = {}
  for i, place in ipairs(list) do ids[i] = place - 1 end
  return pf.tensor(ids, { dtype = "i32" })
end

--- Mean -log p of items for users.
local function loss_of(o, model, users, items, pop, kernel)
  local q = bounded(model.users:embedding(ids_of(users)), o.norm)
  local k = bounded(model.items, o.norm)
  local own = (q * k:embedding(ids_of(items))):sum(-1)
  local prior = pop:embedding(ids_of(items)):reshape(#items):log()
  return (log_sum(q, k, pop, kernel) - own - prior):mean()
end

-- ---- judging ----

--- The exact loss of what was held out, and how often it is among the 20 likeliest of those that
-- the user has not rated.
local function judge(o, model, train, held, pop)
  local loss, hits, prior = 0, 0, pop:log():reshape(-1)
  local k = model and bounded(model.items, o.norm)
  for first = 1, #held, 128 do
    local users, items = {}, {}
    for i = first, math.min(first + 127, #held) do
      users[#users + 1], items[#items + 1] = held[i][1], held[i][2]
    end
    local log_p = prior:reshape(1, -1) + pf.zeros(#users, pop:size(1))
    if model then
      local q = bounded(model.users:embedding(ids_of(users)), o.norm)
      log_p = log_p + q:matmul(k:transpose(1, 2))
    end
    log_p = log_p:log_softmax(-1)
    loss = loss + log_p:cross_entropy(ids_of(items)):item() * #items
    for i, row in ipairs(log_p:totable()) do
      local own, before = row[items[i]], 0
      for _, item in ipairs(train[users[i]]) do row[item] = -math.huge end
      for _, p in ipairs(row) do before = before + (p > own and 1 or 0) end
      hits = hits + (before < 20 and 1 or 0)
    end
    collectgarbage()
  end
  return loss / #held, 100 * hits / #held
end

--- How far the estimated sum is from the exact one, root mean square, for vectors as they are now.
local function error_of(o, model, pop, kernel)
  local q, k = bounded(model.users, o.norm), bounded(model.items, o.norm)
  local off = (log_sum(q, k, pop, kernel) - log_sum(q, k, pop)):exp() - 1
  return 100 * math.sqrt(off:square():mean():item())
end

local function train_one(o, name, kernel, data)
  pf.seed(o.seed)
  math.randomseed(o.seed)
  local model = { users = pf.randn(data.n_users, o.dim) * 0.1,
                  items = pf.randn(data.n_items, o.dim) * 0.1 }
  local curve = {}
  local _, seconds = kit.train { model = pf.nn.parameters_of(model), label = name, steps = o.steps,
    lr = o.lr, decay = 0.02, clip = 0, points = o.points,
    batch = function()
      local users, items = {}, {}
      while #users < o.batch do
        local user = math.random(data.n_users)
        local own = data.train[user]
        if #own > 0 then
          users[#users + 1], items[#items + 1] = user, own[math.random(#own)]
        end
      end
      return { users = users, items = items }
    end,
    loss = function(_, batch, step)
      return loss_of(o, model, batch.users, batch.items, data.pop, kernel and kernel(step))
    end,
    each = function(step)
      curve[#curve + 1] = { step, (judge(o, model, data.train, data.held, data.pop)) }
    end }
  return model, curve, seconds
end

kit.main(function()
  local o = kit.options { name = "large_softmax", sizes = SIZES, takes = "about half an hour",
    about = "A recommender's softmax over all items, trained by estimated and exact sums.",
    data = { { "data", "userId, movieId, rating, timestamp" } } }
  local list, n_users, n_items = read(o.data)
  local data = { n_users = n_users, n_items = n_items }
  data.train, data.held = by_user(list, n_users, o.limit)
  data.pop = popularity(data.train, n_items)
  local kernels = { { "exact sum" } }
  for _, case in ipairs(CASES) do
    local function draw(step) -- scale 1: exp(q.k), not exp(q.k / sqrt d)
      return pf.kernel[case[1]] { features = o.features, head_dim = o.dim, scale = 1,
                                  seed = o.seed + step }
    end
    local once = draw(0)
    kernels[#kernels + 1] = { ("%s, %d features, %s"):format(case[1], o.features, case[2]),
                              case[2] == "drawn once" and function() return once end or draw }
  end
  local rows, series, found = {}, {}, {}
  local plain_loss, plain_hits = judge(o, nil, data.train, data.held, data.pop)
  rows[1] = { "popularity alone", ("%.4f"):format(plain_loss), ("%.2f"):format(plain_hits), "-",
              "-" }
  for i, entry in ipairs(kernels) do
    local model, curve, seconds = train_one(o, entry[1], entry[2], data)
    local loss, hits = judge(o, model, data.train, data.held, data.pop)
    found[i] = { loss = loss, hits = hits, name = entry[1] }
    series[i] = { name = entry[1], points = curve }
    rows[i + 1] = { entry[1], ("%.4f"):format(loss), ("%.2f"):format(hits),
      entry[2] and ("%.1f %%"):format(error_of(o, model, data.pop, entry[2](0))) or "0",
      ("%.1f"):format(seconds) }
  end
  kit.print("%d users, %d items, %d ratings held out; no figure in the paper", n_users, n_items,
            #data.held)
  kit.table({ "sum over items", "held out, nats", "in the first 20, %", "error of the sum", "s" },
            rows)
  kit.file(".svg", svg.chart { title = "A softmax over all items", x = "step",
                               y = "held out, nats", series = series })
  local best = found[2]
  for i = 3, #found do best = found[i].loss < best.loss and found[i] or best end
  kit.verdict(best.loss < plain_loss, "%s has %.4f nats and %.2f %% in the first 20, trained by "
    .. "the exact sum %.4f and %.2f %%, popularity alone %.4f and %.2f %%", best.name, best.loss,
    best.hits, found[1].loss, found[1].hits, plain_loss, plain_hits)
end)

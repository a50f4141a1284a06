--- 07_nearest_items.lua - a softmax over 100,000 items, as a recommender needs it: the chance of
-- an item is exp(q.k) over the sum for all items. FAVOR+ takes that sum once; then a query costs
-- the same however many items there are, and items come and go.
--
--   build/release/bin/performer examples/07_nearest_items.lua [items] [features]
local pf = require "performer"
local count, features = tonumber(arg[1] or 100000), tonumber(arg[2] or 1024)
local dim, topics, users = 32, 20, 256
pf.open { seed = 7 }
math.randomseed(7)

-- Items lie around topics, users look for one of them. A key is an item's place, its value is
-- what one wants to know the mean of: here a price, and whether it belongs to topic 1.
local centres = pf.randn(topics, dim) * 0.15
local function around(n) -- n rows, and each one's topic, from 0
  local topic = {}
  for i = 1, n do topic[i] = math.random(0, topics - 1) end
  local ids = pf.tensor(topic, { dtype = "i32" })
  return centres:embedding(ids) + pf.randn(n, dim) * 0.1, topic
end
local function facts(topic)
  local rows = {}
  for i, t in ipairs(topic) do rows[i] = { 10 + t + math.random(), t == 0 and 1 or 0 } end
  return pf.tensor(rows)
end
local keys, topic = around(count)
local values, queries = facts(topic), around(users)

--- The judge: every score, for 32 users at a time.
local function exact(k, v)
  local z, mean = {}, {}
  for first = 1, users, 32 do
    local scores = queries:slice(1, first, first + 31):matmul(k:transpose(1, 2))
    z[#z + 1], mean[#mean + 1] = scores:logsumexp(-1), scores:softmax(-1):matmul(v)
  end
  return pf.concat(z, 1), pf.concat(mean, 1)
end

local function timed(f)
  local began = pf.clock()
  local a, b = f()
  return 1e3 * (pf.clock() - began), a, b
end

-- scale = 1: the score is q.k itself (the default would divide it by sqrt(dim)).
local kernel = pf.kernel.softmax { head_dim = dim, features = features, scale = 1, seed = 1 }
local pass, items = timed(function()
  return pf.attention.items { kernel = kernel, keys = keys, values = values }
end)
print(("%s; one pass took %.0f ms"):format(items, pass))

--- How far the estimates are from the judge, and what both cost.
local function compare(k, v)
  local slow, z, mean = timed(function() return exact(k, v) end)
  local fast, about_z, about_mean = timed(function()
    return items:log_partition(queries), items:expectation(queries)
  end)
  local off = math.sqrt((about_z:exp() / z:exp() - 1):square():mean():item())
  local price = (about_mean - mean):slice(2, 1, 1):abs():mean():item()
  print(("%7d items: partition off by %.1f %%, mean price by %.3f; %d users exact %.0f ms, " ..
    "FAVOR+ %.1f ms"):format(items:count(), 100 * off, price, users, slow, fast))
end
compare(keys, values)

-- The first tenth is sold out, a few new ones arrive.
local sold = count // 10
items:remove(keys:slice(1, 1, sold), values:slice(1, 1, sold))
local new_keys, new_topic = around(100)
local new_values = facts(new_topic)
items:add(new_keys, new_values)
compare(pf.concat({ keys:slice(1, sold + 1, -1), new_keys }, 1),
  pf.concat({ values:slice(1, sold + 1, -1), new_values }, 1))

-- The chances of the new ones for the first user: exact scores over the estimated sum.
local chances = items:probability(queries:slice(1, 1, 1), new_keys):reshape(100)
print(("likeliest new item for user 1: number %d, %.1f times the average item")
  :format(chances:argmax(1):item(), chances:max():item() * items:count()))

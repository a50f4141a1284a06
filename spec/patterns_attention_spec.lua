-- patterns_attention_spec.lua - attention over every rule of patterns against the dense judge in
-- double (support/dense.lua over support/patterns.lua): outputs to 2e-6, gradients to 2e-5 of the
-- largest, at lengths around every edge, causal and full, with what else says who sees whom: key
-- masks, grouped heads, decay, a prefix, limits, packed documents. The spec loops over the table.
local pf = require "performer"
local array = require "spec.support.array"
local dense = require "spec.support.dense"
local patterns = require "spec.support.patterns"
require "spec.support"

local LENGTHS = { 1, 2, 63, 127, 128, 129, 130, 517 }
local H, D, DV = 2, 5, 3

-- What is asked beside the pattern, in turn. causal: only where it is.
local REACHES = {
  {}, { mask = true }, { grouped = true }, { decay = true, causal = true },
  { documents = true }, { prefix = true, causal = true }, { limits = true, causal = true },
  { documents = true, mask = true, decay = true, grouped = true, causal = true },
}

-- ---- one case ---------------------------------------------------------------------------

--- Where documents begin (from 0), and the length behind them.
local function cuts_of(length)
  local cuts = { 0 }
  for _, share in ipairs { 0.1, 0.4, 0.42 } do
    local at = math.floor(share * length)
    if at > cuts[#cuts] then cuts[#cuts + 1] = at end
  end
  cuts[#cuts + 1] = length
  return cuts
end

local function part_of(list, from, to) return { table.unpack(list, from + 1, to) } end

--- Rows of counts of one item's head: segment by segment, each with the pattern of its own.
local function counts_of(case, head)
  local rows = {}
  for i = 1, case.length do
    rows[i] = {}
    for j = 1, case.length do rows[i][j] = 0 end
  end
  for n = 1, #case.cuts - 1 do
    local from, to = case.cuts[n], case.cuts[n + 1]
    local at = { length = to - from, causal = case.causal, head = head, list = case.list,
                 limits = case.limits, mask = case.mask and part_of(case.mask, from, to) }
    if case.buckets then
      at.buckets = {}
      for t, numbers in ipairs(case.buckets) do at.buckets[t] = part_of(numbers, from, to) end
    end
    for i, row in ipairs(patterns.matrix(case.rule, case.options, at)) do
      table.move(row, 1, #row, from + 1, rows[from + i])
    end
  end
  return rows
end

--- How many keys of its document query i (from 1) sees without the pattern, and where that begins.
local function last_of(case, i)
  if case.limits then return case.limits[i], 0 end
  for n = #case.cuts - 1, 1, -1 do
    if i > case.cuts[n] then return i - case.cuts[n], case.cuts[n] end
  end
end

local function new_case(rule, sample, length, causal, reach, random)
  local case = { rule = rule, options = sample.options, length = length, causal = causal,
                 cuts = { 0, length } }
  if sample.list then case.list, case.list_tensor = sample.list(random, length, length) end
  if sample.buckets then case.buckets = sample.buckets(random, length) end
  if reach.documents then case.cuts = cuts_of(length) end
  if reach.mask then
    case.mask = {}
    for j = 1, length do case.mask[j] = random:below(4) == 0 and 0 or 1 end
  end
  if reach.limits then
    case.limits = {}
    for i = 1, length do case.limits[i] = random:below(length + 1) end
  end
  if reach.prefix then
    case.prefix, case.limits = length // 3, {}
    for i = 1, length do case.limits[i] = math.max(i, case.prefix) end
  end
  case.decay = reach.decay and array.fill({ reach.grouped and 1 or H }, function(h)
    return 0.01 * h
  end)
  return case
end

local function i32(list) return pf.tensor(list, { dtype = "i32" }) end

local function inputs_of(case)
  local o = { causal = case.causal,
              pattern = patterns.words(case.rule.name, case.options, case.list_tensor),
              decay = case.decay and array.tensor(case.decay),
              mask = case.mask and i32 { case.mask } }
  if case.prefix then
    o.prefix = i32 { case.prefix }
  elseif case.limits then
    o.limits = i32(case.limits)
  end
  if #case.cuts > 2 then o.cu_seqlens = i32(case.cuts) end
  if case.buckets then
    local heads = {}
    for h = 1, H do heads[h] = case.buckets end
    o.buckets = i32 { heads }
  end
  return o
end

--- Out and gradients of the engine, as arrays.
local function engine(case, x)
  local q, k, v = array.tensor(x.q), array.tensor(x.k), array.tensor(x.v)
  local out
  for _, t in ipairs { q, k, v } do t:requires_grad() end
  do
    local tape <close> = pf.tape()
    local y = pf.listed_attention(q, k, v, inputs_of(case))
    out = array.of(y)
    tape:backward(y, array.tensor(x.g))
  end
  local grads = {}
  for i, t in ipairs { q, k, v } do
    grads[i] = t:grad() and array.of(t:grad()) or array.new(t:shape())
  end
  return { out, table.unpack(grads) }
end

local function judge(case, x)
  local shared
  x.counts = function(_, h)
    if case.rule.by_head then return counts_of(case, h) end
    shared = shared or counts_of(case, 0)
    return shared
  end
  x.loses = case.decay and function(_, hk, i, j)
    local last, begins = last_of(case, i)
    return case.decay[hk + 1] * (last - (j - begins))
  end
  return { dense.attention(x) }
end

local NAMES = { "out", "dq", "dk", "dv" }

local function check(rule, sample, length, causal, reach, random)
  local case = new_case(rule, sample, length, causal, reach, random)
  local Hk = reach.grouped and 1 or H
  local x = { q = random:normals { 1, H, length, D }, k = random:normals { 1, Hk, length, D },
              v = random:normals { 1, Hk, length, DV }, g = random:normals { 1, H, length, DV } }
  local got, want = engine(case, x), judge(case, x)
  local slope = 0 -- of all gradients: where one key is seen, those of scores are differences of it
  for n = 2, 4 do slope = math.max(slope, array.largest(want[n])) end
  for n, name in ipairs(NAMES) do
    local tolerance = n == 1 and 2e-6 * array.largest(want[n]) or 2e-5 * slope
    local why = array.differs(got[n], want[n], 0, tolerance)
    if why then
      local asked = {}
      for key in pf.sorted(reach) do asked[#asked + 1] = key end
      local options = {}
      for key, value in pf.sorted(sample.options) do options[#options + 1] = key .. "=" .. value end
      error(("%s { %s }, length %d, %s, %s: %s: %s"):format(rule.name, table.concat(options, ", "),
        length, causal and "causal" or "full", table.concat(asked, " "), name, why), 0)
    end
  end
end

-- ---- all of them ------------------------------------------------------------------------

local function fits(reach, sample, causal)
  if reach.causal and not causal then return false end
  if sample.fixed and reach.documents then return false end -- lists are for one length
  return not (sample.own and reach.limits) or causal
end

for _, rule in ipairs(pf.patterns()) do
  describe("attention over " .. rule.name, function()
    for _, causal in ipairs { true, false } do
      local form = causal and "causal" or "full"
      it("is the dense judge's, " .. form, function()
        local random, turn, last = array.random(5), 0, 0
        for n, sample in ipairs(patterns.samples[rule.name]) do
          local asked = sample.causal == nil or sample.causal == causal
          for m, length in ipairs(LENGTHS) do
            -- The longest for one sample, the others for every other, each with another reach.
            local due = length > 500 and n == 1 or length == 128 or (m + n) % 2 == 0
            if asked and due and (length < 500 or n == 1) then
              repeat turn = turn % #REACHES + 1 until fits(REACHES[turn], sample, causal)
              check(rule, sample, length, causal, REACHES[turn], random)
              last = math.max(last, length)
            end
          end
        end
        assert.is_true(last > 100)
      end)
    end
  end)
end

describe("items of a batch", function()
  it("have limits and prefixes of their own, with the bits of each alone", function()
    pf.seed(6)
    local L = 150
    local q, k, v = pf.randn(3, H, L, D), pf.randn(3, H, L, D), pf.randn(3, H, L, DV)
    local random, limits = array.random(8), {}
    for b = 1, 3 do
      limits[b] = {}
      for i = 1, L do limits[b][i] = random:below(L + 1) end
    end
    for _, kind in ipairs(pf.kinds()) do
      for _, given in ipairs { { limits = i32(limits) },
                               { causal = true, prefix = i32 { 9, 0, 70 } } } do
        local o = { causal = given.causal, limits = given.limits, prefix = given.prefix }
        local all = not kind.edges and pf.attention[kind.name](q, k, v, o)
        for b = 1, all and 3 or 0 do
          local own = { causal = given.causal,
                        limits = given.limits and given.limits:slice(1, b, b),
                        prefix = given.prefix and given.prefix:slice(1, b, b) }
          assert.bits_equal(all:slice(1, b, b), pf.attention[kind.name](q:slice(1, b, b),
            k:slice(1, b, b), v:slice(1, b, b), own))
        end
      end
    end
  end)
end)

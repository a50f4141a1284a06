-- golden_formats_spec.lua - files whose formats came after 0.1.0, as the build wrote them that had
-- them first (spec/golden/formats.lua): shards give the sequences, sides and sums that they are
-- made of, and rows go on from what a checkpoint says they go on from.
local pf = require "performer"
require "spec.support"

local FOLDER = "spec/golden/formats"

local function same_data(path, shards)
  local whole = assert(pf.data.open { path = path, length = 32 })
  local parts = assert(pf.data.open { path = shards, length = 32 })
  assert.is_true(parts:info("all").shards)
  for _, split in ipairs { "train", "valid", "all" } do
    local a, b = whole:info(split), parts:info(split)
    for _, field in ipairs { "documents", "duplicates", "tokens", "checksum", "format" } do
      assert.equal(a[field], b[field], field)
    end
    for i = 1, a.documents do
      local ids, name = whole:document(i, split)
      local its, its_name = parts:document(i, split)
      assert.bits_equal(ids, its)
      assert.equal(name, its_name)
    end
  end
end

describe("files of formats since 0.1.0", function()
  it("are shards of sequences", function()
    same_data("spec/golden/0.1.0/proteins.fasta", FOLDER .. "/sequences")
  end)

  it("are shards of text", function() same_data(FOLDER .. "/text.txt", FOLDER .. "/text") end)

  it("are what rows go on from", function()
    local want = assert(pf.load(FOLDER .. "/expected.safetensors"))
    local model = assert(pf.checkpoint.load(FOLDER .. "/run")).model
    local state = assert(pf.checkpoint.carried(FOLDER .. "/run", model))
    assert.equal(12, state:position())
    local batch = { input = want.ids, target = want.target }
    local loss = model:loss(batch, { carry = state }):item()
    assert.is_true(math.abs(loss - want.loss:item()) <= 2e-5 * math.abs(loss))
    local anew = model:loss(batch):item() -- it makes a difference
    assert.is_true(math.abs(loss - anew) > 1e-4 * math.abs(loss))
  end)
end)

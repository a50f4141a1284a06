-- data_spec.lua - data sets as scripts see them: several files, a validation part of its own,
-- shards. What they hold is judged in C (spec/c/data_files_test.c, shards_test.c).
local pf = require "performer"
local support = require "spec.support"

local folder = support.folder()

local function write(name, text) return support.write(folder .. "/" .. name, text) end

--- n sequences of length 30, the i-th its own.
local function sequences(first, last)
  local letters, lines = "ACDEFGHIKLMNPQRSTVWY", {}
  for i = first, last do
    local residues = {}
    for j = 1, 30 do
      local at = (i * 7 + j * j * (i % 5 + 1) + i // 20 * j) % 20 + 1
      residues[j] = letters:sub(at, at)
    end
    lines[#lines + 1] = (">p%d\n%s\n"):format(i, table.concat(residues))
  end
  return table.concat(lines)
end

local first, second = write("a.fasta", sequences(1, 40)), write("b.fasta", sequences(31, 70))

describe("a data set", function()
  it("may be several files", function()
    local data = assert(pf.data.open { path = { first, second }, length = 64 })
    local train, valid = data:info "train", data:info "valid"
    assert.equal(70, train.documents + valid.documents)
    assert.equal(10, train.duplicates + valid.duplicates)
    assert.equal(2, train.files)
    assert.is_false(train.shards)
    assert.equal(0, train.block)
    local one = assert(pf.data.fasta(write("all.fasta", sequences(1, 40) .. sequences(31, 70))))
    assert.equal(one:info().checksum, train.checksum)
    assert.equal(one:info("valid").documents, valid.documents)
    local none, message = pf.data.open { path = { first, write("t.txt", "some text") } }
    assert.is_nil(none)
    assert.matches("t.txt: is text, unlike the files before it", message)
    assert.raises("'path' must be a string or a list of strings", function()
      pf.data.open { path = { 1, 2 } }
    end)
  end)

  it("may have its validation part in other files", function()
    local data = assert(pf.data.open { path = first, valid = second, length = 64 })
    assert.equal(30, data:info().documents)
    assert.equal(40, data:info("valid").documents)
    assert.equal(10, data:info().shared)
    assert.raises("leave out 'split' and 'valid_fraction'", function()
      pf.data.open { path = first, valid = second, valid_fraction = 0.1 }
    end)
  end)
end)

describe("a split by homology", function()
  it("holds out whole families, and tells how near they are", function()
    local lines, letters = {}, "ACDEFGHIKLMNPQRSTVWY"
    local seed = 1
    local function draw(n)
      seed = (seed * 1103515245 + 12345) % 2 ^ 31
      return seed // 65536 % n + 1
    end
    for family = 1, 20 do
      local ancestor = {}
      for i = 1, 120 do ancestor[i] = draw(20) end
      for member = 1, 3 do
        for i = 1, 120 do
          local at = draw(5) == 1 and draw(20) or ancestor[i]
          ancestor.text = (i == 1 and "" or ancestor.text) .. letters:sub(at, at)
        end
        lines[#lines + 1] = (">f%d_%d\n%s\n"):format(family, member, ancestor.text)
      end
    end
    local path = write("families.fasta", table.concat(lines))
    local data = assert(pf.data.open { path = path, split = "homology", valid_fraction = 0.2 })
    assert.equal(20, data:info().clusters)
    assert.equal(12, data:info("valid").documents)
    local side = {}
    for _, split in ipairs { "train", "valid" } do
      for i = 1, data:info(split).documents do
        local family = select(2, data:document(i, split)):match "^f%d+"
        side[family] = side[family] or split
        assert.equal(split, side[family])
      end
    end
    local far = data:identity()
    assert.same({ 12, 12, 0 }, { far.sequences, far.unrelated, far.mean })
    local near = assert(pf.data.open { path = path, valid_fraction = 0.2 }):identity { sample = 5 }
    assert.equal(5, near.sequences)
    assert.is_true(near.median > 0.5)
    assert.equal(10, #near.histogram)
    assert.raises("unknown option 'sampel'", function() data:identity { sampel = 3 } end)
    assert.raises("takes the sequences in memory", function()
      pf.data.shard { path = path, out = folder .. "/no", split = "homology" }
    end)
  end)
end)

describe("shards", function()
  local dir = folder .. "/shards"

  it("hold what the files hold", function()
    local memory = assert(pf.data.open { path = { first, second }, length = 64 })
    local data = assert(pf.data.shard { path = { first, second }, out = dir, block = 400 })
    assert.is_true(data:info().shards)
    assert.equal(400, data:info().block) -- several of sequences: rows are packed within each
    for _, split in ipairs { "train", "valid", "all" } do
      local a, b = memory:info(split), data:info(split)
      assert.same({ a.documents, a.tokens, a.duplicates, a.checksum },
                  { b.documents, b.tokens, b.duplicates, b.checksum })
    end
    data:close()
    data = assert(pf.data.open { path = dir, length = 64, window = 1 })
    assert.equal("fasta", pf.data.kind(dir))
    local ids, name = data:document(3, "all")
    local same, its = memory:document(3, "all")
    assert.bits_equal(same, ids)
    assert.equal(its, name)
    for step, batch in data:batches { size = 2, steps = 30, seed = 1 } do
      assert.is_true(batch.tokens > 0)
      if step % 10 == 0 then
        assert.bits_equal(batch.input, assert(pf.data.shards { path = dir, length = 64 })
          :batch { index = step, size = 2, seed = 1 }.input)
      end
    end
    assert.same(memory:counts(), data:counts())
  end)

  it("are made once, of files", function()
    assert.raises("there already, and holds something", function()
      pf.data.shard { path = first, out = dir }
    end)
    assert.raises("unknown option 'length'", function()
      pf.data.shard { path = first, out = folder .. "/none", length = 3 }
    end)
    local none, message, code = pf.data.shard { path = folder .. "/none", out = folder .. "/x" }
    assert.is_nil(none)
    assert.matches("No such file", message)
    assert.equal("PF_ENOTFOUND", code)
  end)

  it("that changed are an error, and the data set stays", function()
    local data = assert(pf.data.shards { path = dir, length = 64, window = 1, min_tokens = 1 })
    local path = dir .. "/shard-00000.bin"
    local good = support.read(path)
    data:batch { index = 1 }
    support.write(path, (good:gsub(".", function(c) return string.char(c:byte() ~ 1) end)))
    assert.raises("shard%-00000.bin: is damaged, or has changed since it was made", function()
      for i = 1, 20 do data:batch { index = i } end
    end)
    support.write(path, good)
    for i = 1, 20 do data:batch { index = i } end
  end)
end)

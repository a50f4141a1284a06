-- examples_spec.lua - what a newcomer tries first works as it says: every program of
-- examples/, and every block of code in README.md and bindings/README.md.
local foreign = require "spec.support.foreign"
local lfs = require "lfs"
local support = require "spec.support"

-- Small programs beside other tests: one thread, and no spinning.
local QUIET = "OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive "
local build = support.build

--- Runs an example and returns what it printed.
local function run(words)
  local code, out, err = support.shell(("%s'%s/bin/performer' examples/%s"):format(QUIET, build,
    words))
  assert.equal(0, code, err)
  assert.equal("", err)
  return out
end

--- All captures of a pattern, as numbers.
local function numbers(text, pattern)
  local found = {}
  for value in text:gmatch(pattern) do found[#found + 1] = tonumber(value) end
  return found
end

--- The ids after a word: "said  3 1 2".
local function ids(text, word)
  return (text:match(word .. ":? *([%d ]+)"):gsub(" +$", ""))
end

describe("examples", function()
  it("are all tried here, and short", function()
    local here = support.read("spec/examples_spec.lua")
    for name in lfs.dir "examples" do
      if name:match "%.lua$" or name:match "%.c$" then
        assert.truthy(here:find(name, 1, true), name .. " has no test")
        local _, lines = support.read("examples/" .. name):gsub("\n", "")
        assert.is_true(lines < 80, name .. " is too long")
      end
    end
  end)

  it("01_tensor: finds the line", function()
    local out = run "01_tensor.lua"
    assert.truthy(out:find("[2, 4]; dimension -1", 1, true))
    local slope, shift = out:match "\n  50 +([%d.-]+) +([%d.-]+)"
    assert.near(2, tonumber(slope), 0.02)
    assert.near(-1, tonumber(shift), 0.02)
  end)

  it("02_kernel: the error falls with features and grows with norms", function()
    local out = run "02_kernel.lua"
    local by_features = numbers(out, "\n +%d+ +(0%.%d%d%d%d) +0%.%d%d%d%d")
    local by_norm = numbers(out, "\n +%d+%.%d%d +(%d%.%d%d%d%d) +[%d.e+]+")
    assert.equal(4, #by_features)
    for i = 2, 4 do assert.is_true(by_features[i] < 0.8 * by_features[i - 1], out) end
    assert.is_true(by_features[4] < 0.12, out)
    assert.is_true(by_norm[#by_norm] > 10 * by_features[4], out)
    local by_kernel = numbers(out, "off by (0%.%d+)")
    assert.equal(2, #by_kernel)
    assert.is_true(math.abs(by_kernel[1] - by_kernel[2]) <= 1e-4, out)
  end)

  it("03_copy_task: copies, and reverses", function()
    local out = run "03_copy_task.lua copy"
    assert.equal(ids(out, "given"), ids(out, "said") .. " 16")
    out = run "03_copy_task.lua reverse"
    local backwards = {}
    for id in ids(out, "said"):gmatch "%d+" do table.insert(backwards, 1, id) end
    assert.equal(ids(out, "given"), table.concat(backwards, " ") .. " 16")
  end)

  it("10_classifier: tells kinds of lines apart, its own and a file's", function()
    local out = run "10_classifier.lua - 40 12:30:05"
    local right, all = out:match "held back: (%d+) of (%d+) right, 3 classes"
    assert.is_true(tonumber(right) >= 0.95 * tonumber(all), out)
    assert.truthy(out:find("12:30:05\ttime", 1, true), out)
    local folder, lines = support.folder(), {}
    for i = 1, 40 do lines[i] = (i % 2 == 0 and "even\t" or "odd\t") .. i end
    support.write(folder .. "/lines.tsv", table.concat(lines, "\n") .. "\n")
    out = run("10_classifier.lua " .. folder .. "/lines.tsv 3")
    support.remove(folder)
    assert.truthy(out:find("of 8 right, 2 classes", 1, true), out)
  end)

  it("11_encoder_decoder: sorts the digits of its source", function()
    local out = run "11_encoder_decoder.lua 300 3141592"
    assert.equal("3 1 4 1 5 9 2", ids(out, "given"))
    assert.equal("1 1 2 3 4 5 9", ids(out, "said"))
  end)

  it("14_which_attention: tells each kind's costs and what it recalls, and advises", function()
    local kinds = require("performer").kinds()
    local out = run "14_which_attention.lua --smoke"
    for _, kind in ipairs(kinds) do
      assert.truthy(out:find("\n" .. kind.name .. " +[%d.]+ +[%d.]+ +[%d.]+x +[%d.]+ %% ")
        or out:find("\n" .. kind.name .. " +left out: %l"), out)
    end
    assert.truthy(out:find "\nadvice: [^\n]+\n$", out)
  end)

  it("15_duplication: finds more with every round of hashing", function()
    local steps = support.sanitized and " 10" or "" -- too slow to learn
    local right = numbers(run("15_duplication.lua --smoke" .. steps), "rounds? +([%d.]+) %% right")
    assert.equal(4, #right)
    if steps ~= "" then return end
    for i = 2, 4 do assert.is_true(right[i] >= right[i - 1] - 0.5, table.concat(right, " ")) end
    assert.is_true(right[1] < 95 and right[3] > 90, table.concat(right, " "))
  end)

  it("16_serve: readers come and go, and each gets what it gets alone", function()
    local out = run "16_serve.lua"
    for _, said in ipairs { "abc > defghijklm", "uwyac > egikmoqsuwya", "cfilorux > adgjmp",
      "opqrs > tuvwxyz" } do
      assert.truthy(out:find(said, 1, true), out)
    end
  end)

  it("04_char_lm: learns its paragraph, or a file", function()
    local out = run "04_char_lm.lua - 60"
    local losses = numbers(out, "loss ([%d.]+)")
    assert.is_true(losses[1] > 4 and losses[#losses] < 1.8, out)
    assert.truthy(out:find("\nA transformer reads a", 1, true))
    out = run "04_char_lm.lua engine/include/performer.h 10"
    assert.equal(10, #numbers(out, "held back ([%d.]+)\n"))
  end)

  it("04_char_lm: says what is wrong with a file", function()
    local program = ("%s'%s/bin/performer' examples/04_char_lm.lua "):format(QUIET, build)
    local code, _, err = support.shell(program .. "/no/such/file")
    assert.equal(1, code)
    assert.truthy(err:find("/no/such/file", 1, true))
    code, _, err = support.shell(program .. "/dev/null")
    assert.equal(2, code)
    assert.truthy(err:find("at least 129 bytes", 1, true))
  end)

  it("05_custom_layer: is right, learns, and comes back from a checkpoint", function()
    local folder <close> = setmetatable({ path = support.folder() },
      { __close = function(f) support.remove(f.path) end })
    local out = run("05_custom_layer.lua 250 " .. folder.path)
    assert.is_true(tonumber(out:match "off by (%S+)") < 1e-2)
    local given, said = ids(out, "given"), ids(out, "said")
    assert.equal(table.concat({ given, given, given }, " "), said)
    assert.equal(out, run "05_custom_layer.lua 250")
  end)

  it("06_beam_search: finds what greedy choice misses", function()
    local out = run "06_beam_search.lua"
    local greedy = tonumber(out:match "greedy +a%l%l%l%l +log p (%S+)")
    local word, best = out:match "beam 1 +(%l+) +log p (%S+)"
    assert.equal("bcdef", word)
    assert.is_true(tonumber(best) > greedy + 1, out)
    assert.equal(4, #numbers(out, "beam %d +%l+ +log p (%S+)"))
  end)

  it("07_nearest_items: is near the judge, before and after items left and came", function()
    local out = run "07_nearest_items.lua 5000 512"
    local off = numbers(out, "partition off by ([%d.]+) %%")
    local price = numbers(out, "mean price by ([%d.]+);")
    assert.equal(2, #off)
    for i = 1, 2 do assert.is_true(off[i] < 15 and price[i] < 0.5, out) end
    assert.truthy(out:find("set of 5000 items", 1, true))
    assert.truthy(out:find("   4600 items: partition", 1, true))
    assert.is_true(tonumber(out:match "([%d.]+) times the average item") > 1, out)
  end)

  it("08_pointer_sort: points to the right places, by FAVOR+ and exactly", function()
    for _, which in ipairs { "favor", "exact" } do
      local right = numbers(run("08_pointer_sort.lua 120 " .. which), "right +([%d.]+) %%")
      assert.equal(10, #right)
      assert.is_true(right[10] > 80, right[10] .. " % right; guessing gives 10 %")
    end
  end)

  it("12_pretrained: loads another program's model, and trains it on with FAVOR+", function()
    local model = foreign.models.llama2c
    local place <close> = setmetatable({ path = support.folder() },
      { __close = function(f) support.remove(f.path) end })
    foreign.write(place.path, model.config, foreign.numbers(model, 3))
    local out = run(("12_pretrained.lua %s - 40"):format(place.path))
    assert.truthy(out:find "llama2c, 1088 parameters, 16 tensors loaded")
    local figures = numbers(out, "\n[eF][xA].- (%d%.%d%d%d)%f[^%d]")
    assert.equal(3, #figures, out)
    for i = 1, 3 do assert.near(figures[1], figures[i], 0.05, out) end -- it attends to little
  end)

  it("09_my_spec: passes, and fails where its layer steps wrongly", function()
    local busted = QUIET .. "lua5.4 $(command -v busted) -o TAP "
    local code, out = support.shell(busted .. "examples/09_my_spec.lua")
    assert.equal(0, code, out)
    assert.truthy(out:find "\nok 5 ")
    local folder <close> = setmetatable({ path = support.folder() },
      { __close = function(f) support.remove(f.path) end })
    local path = folder.path .. "/my_spec.lua"
    local text, changed = support.read("examples/09_my_spec.lua"):gsub("state.sum / state.n",
      "state.sum / (state.n + 1)")
    assert.equal(1, changed)
    support.write(path, text)
    code, out = support.shell(busted .. path)
    assert.are_not.equal(0, code)
    assert.truthy(out:find("check.streaming: after 6 positions at once and 6 steps, item", 1, true),
      out)
  end)

  it("13_graph: tells subjects from few labels", function()
    for _, score in ipairs { "gat", "gatv2" } do
      local out = run("13_graph.lua - 60 1 " .. score)
      assert.truthy(out:find("graph of 150 nodes, 1024 edges", 1, true), out)
      assert.is_true(tonumber(out:match "test (%d+%.%d) %%") > 80, out)
    end
  end)
end)

-- ---- the texts ------------------------------------------------------------------------

--- The blocks of a language in a Markdown file.
local function blocks(path, language)
  local found = {}
  for block in ("\n" .. support.read(path)):gmatch("\n```" .. language .. "\n(.-\n)```") do
    found[#found + 1] = block
  end
  return found
end

describe("README", function()
  local folder
  before_each(function() folder = support.folder() end)
  after_each(function() support.remove(folder) end)

  --- Runs shell words in the scratch folder.
  local function inside(words)
    return support.shell(("cd '%s' && %s%s"):format(folder, QUIET, words))
  end

  --- A block that trains on book.txt, run with a few steps; what it printed.
  local function train(block)
    local _, times = block:gsub("steps = %d+", "")
    assert.equal(2, times)
    block = block:gsub("steps = %d+", "steps = 3"):gsub("%% 100 ==", "%% 1 ==")
    support.write(folder .. "/block.lua", block)
    support.write(folder .. "/book.txt", ("The long sentence of a short book. "):rep(200))
    local code, out, err = inside(("'%s/bin/performer' block.lua"):format(build))
    assert.equal(0, code, err)
    assert.truthy(out:find "3%s+%d+%.%d+%s+live %d", out)
    return out
  end

  it("has twenty lines of Lua that train a model, and C that streams from it", function()
    local c = blocks("README.md", "c")
    assert.equal(1, #c)
    assert.equal(support.read "examples/hosts/embed.c", c[1])
    train(blocks("README.md", "lua")[1])
    local code, out, err = inside(("'%s/examples/embed'"):format(build))
    assert.equal(0, code, err)
    assert.equal(200, #out)
    assert.equal("T", out:sub(1, 1))
    local _, again = inside(("'%s/examples/embed' runs/twenty"):format(build))
    assert.equal(out, again)
  end)

  it("embed.c says what is wrong with a folder", function()
    local code, out, err = inside(("'%s/examples/embed' nothing"):format(build))
    assert.equal(1, code)
    assert.equal("", out)
    assert.truthy(err:find "^PF_[A-Z]+: .*nothing", err)
  end)

  it("names commands and options that exist", function()
    local tried = 0
    for _, block in ipairs(blocks("README.md", "sh")) do
      for line in block:gmatch "[^\n]+" do
        local command, words = line:match "performer (%l+)(.*)"
        if command then
          local _, help = support.performer(command .. " --help")
          local case = command == "bench" and words:match "^ (%l+)"
          if case then assert.truthy(help:find(case, 1, true), "bench has no " .. case) end
          for option in words:gmatch "%-%-[%w-]+" do
            assert.truthy((help .. " "):find(option:gsub("%p", "%%%0") .. "[%s%]]"),
                          command .. " has no " .. option)
            tried = tried + 1
          end
        end
        local script = line:match "^(scripts/%w+)"
        if script then assert.equal("file", lfs.attributes(script, "mode"), script) end
      end
    end
    assert.is_true(tried > 8)
    local _, commands = support.performer "--help"
    for command in support.read("README.md"):gmatch "\n| `performer (%l+)`" do
      assert.truthy(commands:find("\n  " .. command .. " "), command)
    end
  end)

  it("links to files that exist", function()
    for _, place in ipairs { "", "engine/", "bindings/" } do
      for target in support.read(place .. "README.md"):gmatch "%]%(([^)#]+)%)" do
        if not target:match "^https?:" then
          assert.truthy(lfs.attributes(place .. target, "mode"), place .. target)
        end
      end
    end
  end)

  it("of the bindings begins with a script that trains", function()
    train(blocks("bindings/README.md", "lua")[1])
  end)

  it("of the bindings shows Lua that runs", function()
    local start = [[
      local pf = require "performer"
      local nn = pf.nn
      local B, H, dv = 1, 2, 4
      local q, k, v = pf.randn(B, H, 5, 4), pf.randn(B, H, 5, 4), pf.randn(B, H, 5, dv)
      local q1, k1, v1 = q:slice(3, 1, 1), k:slice(3, 1, 1), v:slice(3, 1, 1)
      local kernel = pf.kernel.softmax { head_dim = 4, features = 8 }
      local model = nn.performer { vocab = 9, dim = 8, layers = 1, heads = 2, causal = true }
      local function f(x) return x:square():sum() end
      ]]
    local shown = blocks("bindings/README.md", "lua")
    assert.is_true(#shown > 4)
    for i = 2, #shown do
      support.write(folder .. "/block.lua", start .. shown[i])
      local code, _, err = inside(("'%s/bin/performer' block.lua"):format(build))
      assert.equal(0, code, err)
    end
  end)
end)

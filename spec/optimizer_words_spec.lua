-- optimizer_words_spec.lua - the optimizers' options as words of the command line.
local optimizer_options = require "kit.optimizer_options"
local pf = require "performer"

describe("the words of optimizers", function()
  local rows = optimizer_options.rows { eps = true }
  local by_word = {}
  for _, row in ipairs(rows) do by_word[row[1]] = row end

  it("are all options but trees, lr and decay, each once", function()
    local wanted = {}
    for _, row in ipairs(pf.optimizers()) do
      for _, option in ipairs(row.options) do
        local shared = option.name == "lr" or option.name == "decay"
        if option.kind ~= "tree" and not shared then wanted[option.name] = true end
      end
    end
    for _, row in ipairs(rows) do
      assert.is_true(wanted[row.path], row.path)
      wanted[row.path] = nil
    end
    assert.is_nil(next(wanted))
    assert.equal("eps", by_word["optimizer-eps"].path)
    assert.equal("switch", by_word.nesterov[2])
    assert.equal("muon on", by_word.nesterov[5])
    assert.equal("0", by_word.ema[5]) -- every optimizer's
  end)

  it("become options", function()
    local options = optimizer_options.collect({ lr = 0.1, nesterov = "off", ema = 0.9,
                                                optimizer_eps = 1e-7 }, rows)
    assert.same({ lr = 0.1, nesterov = false, ema = 0.9, eps = 1e-7 }, options)
    assert.equal(0.95, optimizer_options.default("muon", "momentum"))
    assert.is_true(optimizer_options.default("muon", "nesterov"))
    assert.is_nil(optimizer_options.default("adamw", "momentum"))
  end)

  it("say a group", function()
    local groups = { assert(optimizer_options.group("*:lr-scale=0.5,decay=0,orthogonal=none")) }
    assert.same({ match = "*", lr_scale = 0.5, decay = 0, orthogonal = "none" }, groups[1])
    pf.optim.muon({ w = pf.ones(2, 2) }, { groups = groups })
    assert.is_false(optimizer_options.group("blocks.*.bias|head:nesterov=off").nesterov)
    for _, text in ipairs { "embedding", "embedding:", ":decay=0", "embedding:decay" } do
      local group, message = optimizer_options.group(text)
      assert.is_nil(group)
      assert.matches("option", message)
    end
  end)
end)

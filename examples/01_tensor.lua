--- 01_tensor.lua - tensors, ops and gradients.
--
--   build/release/bin/performer examples/01_tensor.lua
local pf = require "performer"

-- A tensor is a block of numbers with a shape. Dimensions and positions count from 1, negative
-- ones from the end, as everywhere in Lua. Printing one shows its shape and its edges.
local a = pf.tensor { { 1, 2, 3 }, { 4, 5, 6 } }
print("a =", a)
print("a[2] =", a[2]) -- the second row
print("a:sum(1) =", a:sum(1)) -- down the columns
print("the last two columns =", a:slice(2, -2, -1))

-- Operators work element by element, shapes stretch where a size is 1 or missing, and a
-- matrix product has a name of its own. Methods never change their tensor.
print("a * 10 + [0 1 2] =", a * 10 + pf.arange(3))
print("a a^T =", a:matmul(a:transpose()))

-- What does not fit raises an error that shows the shapes.
local _, message = pcall(function() return a + pf.zeros(2, 4) end)
print("\nan error reads:", message)

-- Gradients. A tensor that requires one is a leaf; a tape records what is made from it, and
-- walks back. `<close>` frees all that was made in between when the block ends.
local w = pf.tensor { 3, -2 }:requires_grad()
do
  local tape <close> = pf.tape()
  tape:backward((w * w * w):sum())
end
print("\nd(sum w^3)/dw = 3 w^2 =", w:grad())

-- The same by small differences: pf.check.gradient holds any function of ops against them.
local report = pf.check.gradient(function(x) return (x * x * x):sum() end, { w })
print(("by differences: off by %.1e of the slope"):format(report.worst))

-- Put together: y = 2 x - 1 with noise, found again by plain gradient descent.
pf.seed(7)
local x = pf.randn(200)
local y = 2 * x - 1 + 0.1 * pf.randn(200)
local slope, shift = pf.zeros():requires_grad(), pf.zeros():requires_grad()
print "\nstep   slope   shift    loss"
for step = 1, 50 do
  local tape <close> = pf.tape()
  local loss = (slope * x + shift):mean_square(y)
  tape:backward(loss)
  if step == 1 or step % 10 == 0 then
    print(("%4d  %6.3f  %6.3f  %6.4f"):format(step, slope:item(), shift:item(), loss:item()))
  end
  for _, leaf in ipairs { slope, shift } do
    leaf:copy_(leaf:detach() - 0.1 * leaf:grad()) -- pf.optim does this for whole models
    leaf:clear_grad() -- backward adds
  end
end

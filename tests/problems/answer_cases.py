"""Completions that are easy to misjudge, by what makes them hard.

A line is ``VERDICT GOLD | COMPLETION ¦ COMPLETION ... ‖ VERDICT GOLD | ...``, the verdicts right, wrong and unreadable.
⏎ is a line break, ␣ a space at an end, ∅ the empty text, ``9×90`` ninety nines. Many follow reports of right answers
marked wrong (and the reverse) by public harnesses: thousands commas cut in half, `$`, `**` and `\\boxed` left on the
number, run-on questions read as answers, lost minus signs, the article "a" taken for a choice. The texts are our own.
"""

import re

Cases = dict[str, list[tuple[str, str, str]]]
"""(completion, gold answer, verdict) by group."""
VERDICTS = {"R": "right", "W": "wrong", "U": "unreadable"}


def read_table(text: str) -> Cases:
    cases: Cases = {}
    group: list[tuple[str, str, str]] = []
    for line in text.strip().splitlines():
        if line.startswith("# "):
            group = cases.setdefault(line[2:], [])
            continue
        for entry in line.split(" ‖ "):
            verdict, gold, completions = entry[0], *entry[2:].split(" | ", 1)
            group += [(_spelt(text), _spelt(gold), VERDICTS[verdict]) for text in completions.split(" ¦ ")]
    return cases


def _spelt(text: str) -> str:
    text = "" if text == "∅" else text.replace("⏎", "\n").replace("␣", " ")
    text = re.sub(r"9×(\d+)", lambda match: "9" * int(match[1]), text)
    return re.sub(r"\\u([0-9a-f]{4})", lambda match: chr(int(match[1], 16)), text)


NUMBER = read_table(r"""
# the few-shot form
R 42 | The final answer is 42. ¦ The final answer is 42 ¦ the final answer is 42. ¦ THE FINAL ANSWER IS 42.
R 42 | So 40 + 2 = 42. The final answer is 42. ¦ The final answer is: 42. ¦ The final answer is : 42 .
R 42 | The final answer is⏎42 ¦ The final answer is:⏎⏎42 ¦ The final answer is 42! ¦ The final answer is 042.
R 42 | The final answer is 42.⏎⏎Q: Tom has 3 pens. How many has he?⏎A: The final answer is 3.
R 42 | The final answer is 42. The final answer is 7. ¦ The final answer is 42.⏎Wait, I forgot 2 pens.
R 42 | Half of 84 is 42. So the final answer is 42 pens. Each pen costs 3 dollars.
W 42 | So 40 + 2 = 42. The final answer is 43. ¦ The final answer is 4 2.
W 3 | The final answer is 42.⏎⏎Q: Tom has 3 pens. How many has he?⏎A: The final answer is 3.
# other markers
R 42 | #### 42 ¦ ####42 ¦ #### 42⏎ ¦ ####⏎42 ¦ 20 + 22 = <<20+22=42>>42⏎#### 42 ¦ #### $42 ¦ #### 42 dollars
R 42 | #### 42. ¦ #### **42** ¦ The answer is 42. ¦ the answer is 42 ¦ So the answer is $42.
R 42 | The correct answer is 42. ¦ The answer would be 42. ¦ The answer should be 42 km. ¦ The answer equals 42.
R 42 | The answer to the question is 42. ¦ The answer to the question 1 is 42. ¦ Answer: 42 ¦ answer: 42
R 42 | ANSWER: 42 points ¦ Answer : 42 ¦ Answer = 42 ¦ Answer:⏎42 ¦ Answer:⏎⏎    42
R 42 | 20 + 22 = 42 pens.⏎⏎Answer: 42⏎⏎I checked this in 2 ways. ¦ Final answer: 42
R 42 | Final Answer: 42 (checked twice in 2 ways) ¦ **Final Answer**⏎⏎42 ¦ **Final Answer:** 42
R 42 | **Final Answer: 42** ¦ ### Final Answer⏎42 ¦ <answer>42</answer>
R 42 | Let me see: 7 * 6 = 42.⏎<answer>42</answer>⏎That took 2 steps. ¦ <answer> 42 dollars </answer>
R 42 | <answer>⏎42⏎</answer> ¦ <answer>7 * 6 = 42</answer> ¦ 答案是42。 ¦ 答案：42 ¦ 最终答案为 42 元。
W 42 | 20 + 22 = <<20+22=42>>42⏎#### 41 ‖ R -3 | #### -3 ‖ W 3 | #### -3 ‖ R 1234.5 | #### 1,234.5
U 42 | The answer is not 42. ¦ The answer cannot be 42. ¦ The final answer isn't 42. ‖ R 7 | It is 7, not 42.
# a box
R 42 | \boxed{42} ¦ \boxed{42}. ¦ $\boxed{42}$ ¦ $$\boxed{42}$$ ¦ \[⏎\boxed{42}⏎\] ¦ \[ \boxed{42} \] ¦ \boxed{ 42 }
R 42 | \boxed {42} ¦ \fbox{42} ¦ boxed{42} ¦ \boxed{$42} ¦ \boxed{\$42} ¦ \boxed{42\%} ¦ \boxed{42\text{ dollars}}
R 42 | \boxed{42 \text{ dollars per 2 days}} ¦ \boxed{\text{42}} ¦ \boxed{\mathbf{42}} ¦ \boxed{x = 42}
R 42 | \boxed{6 \times 7 = 42} ¦ \boxed{42}., but let me explain this after.⏎⏎**Final Answer**⏎\boxed{42}
R 42 | First \boxed{12}, no: \boxed{42} ¦ \boxed{42} because 6 * 7 = 42 and 7 is 7.
R 42 | The answer is $\boxed{42}$ pens. ¦ The final answer is $\boxed{42}$. I hope it is correct.
R 42 | The final answer is \(\boxed{42}\).⏎ ‖ R 460 | \boxed{\text{The answer is 460}} ‖ R 0.5 | \boxed{\frac{1}{2}}
R 3/4 | \boxed{\dfrac{3}{4}} ‖ R -0.75 | \boxed{-\frac{3}{4}} ‖ R 8000 | \boxed{8,000} ‖ R 9500 | \boxed{$9{,}500}
R 70000 | \boxed{70{,}000} ¦ \boxed{70\,000} ¦ \boxed{70,\!000}
R 4 | The sum is 2,552,004, so we take 004: \boxed{004} ‖ W 12 | First \boxed{12}, no: \boxed{42}
R 840 | **Final Answer**⏎⏎\boxed{840}⏎⏎This uses 2 facts. ‖ U 2 | \boxed{2\sqrt{3}} ¦ \boxed{2^{10}}
U 5 | \boxed{5\pi}
# currency
R 42 | The final answer is $42. ¦ The final answer is $42.00. ¦ The final answer is 42$. ¦ The final answer is \$42.
R 42 | The final answer is $ 42. ¦ The final answer is €42. ¦ The final answer is 42€. ¦ The final answer is US$42.
R 42 | The final answer is USD 42. ¦ The final answer is 42 USD. ¦ The final answer is 42 dollars.
R 42 | The final answer is 42 dollars and 50 cents. ‖ R 29 | The total cost of the order is $29.00.
R 42.5 | The final answer is £42.50. ‖ R 4200 | The final answer is ¥4200.
R 100000 | The final answer is ₹1,00,000. ‖ R 500 | The final answer is Rs. 500. ¦ The final answer is Rs 500.
R 500 | The final answer is Rs500. ‖ R 18 | **Answer: \$18 per day.** ¦ So she earns **\$18** every day.
R 18 | So she earns **$18**. ‖ R 70000 | She pays $70,000 in all. ¦ The profit is $200,000 - $130,000 = **$70,000**
W 000 | The profit is $200,000 - $130,000 = **$70,000** ‖ W 70 | The profit is $200,000 - $130,000 = **$70,000**
R -5 | -$5 ¦ $-5 ‖ R -1250.5 | He is left with -$1,250.50 ‖ R $18 | The final answer is $18
R $18.00 | The final answer is 18
# thousands
R 1234 | The final answer is 1,234. ‖ R 1,234 | The final answer is 1234.
R 1234567 | The final answer is 1,234,567. ¦ The final answer is 12,34,567. ¦ The final answer is 1.234.567 euros.
R 1234567 | The final answer is 1 234 567. ‖ R 1234.56 | The final answer is 1,234.56.
R 1234.5 | The final answer is 1.234,50 euros. ‖ R 70000 | The final answer is 70 000.
R 70000 | The final answer is 70\u00a0000. ¦ The final answer is 70\u202f000. ¦ The final answer is 70'000.
R 70000 | The final answer is 70\u2019000. ¦ The final answer is 70{,}000. ¦ The final answer is 70~000.
R 70000 | It sums to 70 000 pens ¦ It sums to 70\u2009000 pens ‖ R 100 | He holds 5 100 dollar bills
W 123 | The final answer is 1,23. ‖ U 123 | The final answer is (1,23). ¦ The final answer is [1,23].
R 3 | The values are 1, 2, 3 ¦ The values are 1,2,3 ‖ R 2 | The values are (1,2)
R 72 | The total is 72 clips, altogether. ¦ The answer is 72, in total, so the farmer earns that much.
R 72 | #### 72, in all
# decimals
R 42 | The final answer is 42.0. ¦ The final answer is 42.000 ‖ R 42.0 | The final answer is 42.
R 0.50 | The final answer is 0.5. ‖ R 0.5 | The final answer is .5. ‖ R .5 | The final answer is 0.5.
R 3.5 | The final answer is 3,5 litres. ‖ W 3 | The final answer is 3.14. ‖ W 14 | The final answer is 3.14.
R 13.2 | The final answer is 13.20%. ‖ W 33.3 | The final answer is 33.33.
W 33.333333333333333333333334 | The final answer is 33.333333333333333333333333. ‖ U 1.2 | It comes to 1.2.3
R 0.3 | About 0.1 + 0.2 = 0.3 ‖ R 3 | The final answer is 3.⏎5 pens are left.
R 3 | The final answer is 3. 5 pens are left.
# fractions
R 0.5 | The final answer is 1/2. ¦ The final answer is ½. ¦ The final answer is $\frac{1}{2}$.
R 0.5 | The final answer is $\tfrac{1}{2}$. ¦ The final answer is $\frac12$. ¦ The final answer is $\frac{1}2$.
R 2/4 | The final answer is 1/2. ‖ R 1/2 | The final answer is 1 / 2. ¦ The final answer is 0.5.
R -0.75 | The final answer is -3/4. ‖ W 0.3333 | The final answer is 1/3. ‖ R 1.5 | The final answer is 1 1/2.
R 1.5 | The final answer is 1-1/2 cups. ¦ The final answer is 1½ hours. ¦ The final answer is $1\frac{1}{2}$.
R 3/2 | The final answer is 1 and 1/2 cups. ‖ R -1.5 | The final answer is -1 1/2.
R -1.5 | The final answer is $-1\frac{1}{2}$. ‖ R 2.75 | The final answer is 2 ¾.
R 0.25 | The final answer is 1⁄4. ‖ R -0.5 | The final answer is $\frac{-1}{2}$.
R 2 | The final answer is $\frac{10}{5}$. ‖ R 250 | The final answer is $\frac{1,000}{4}$.
R 71/6 | The final answer is 11 5/6. ‖ W 2 | The final answer is 2 2/3. ‖ U 5 | The final answer is 5/0.
U 0.5 | The final answer is 1/2/3. ‖ U 2 | The final answer is $\frac{x}{2}$.
U 2 | The final answer is $\frac{\sqrt{3}}{2}$. ‖ R 0.75 | She eats 3/4 ‖ R 2.25 | She uses 2 1/4 cups
# percent
R 50 | The final answer is 50%. ¦ The final answer is 50 %. ¦ The final answer is 50\%.
R 50 | The final answer is 50 percent. ¦ The final answer is $50\%$. ¦ The final answer is 50％.
R 50% | The final answer is 50. ¦ The final answer is 50 per cent. ¦ The final answer is 0.5.
R 50% | The final answer is 50%. ¦ The final answer is **50**%. ‖ R 0.5 | The final answer is 50%.
W 50% | The final answer is 0.5%. ‖ W 0.5% | The final answer is 50%. ‖ W 0.5 | The final answer is 50.
W 50 | The final answer is 5%. ¦ The final answer is 0.5%. ‖ R 12.5 | The final answer is 12.5 percentage points.
# minus signs
R -5 | The final answer is -5. ¦ The final answer is \u22125. ¦ The final answer is \u20135.
R -5 | The final answer is - 5. ¦ The final answer is minus 5. ¦ The final answer is negative 5.
R -5 | The final answer is minus five. ¦ The final answer is **-5**. ¦ The final answer is $-5$.
R -5 | The final answer is (-5). ¦ The final answer is = -5 ‖ W 5 | The final answer is -5.
W -5 | The final answer is 5. ‖ R 5 | The final answer is +5. ¦ a 5-year-old ‖ R 0 | The final answer is -0.
R -3 | It falls from 2 to -3 ¦ It falls by 5, so 2 - 5 = -3 ‖ R 3 | 16 - 3 ¦ 16-3 ‖ R 13 | 16 -3 = 13
R 42 | So the rest is:⏎- 42 ¦ Answer:⏎- 42 pens ¦ The total is about ~42 ¦ The total \u2014 42 ¦ The balance\u201442
R -42 | So the rest is:⏎-42 ‖ R 12 | Pages 10-12
# units
R 42 | The final answer is 42 apples. ¦ The final answer is 42km. ¦ The final answer is 42 km/h.
R 42 | The final answer is 42 km per 2 hours. ¦ The final answer is 42 cm^2. ¦ The area is 42 cm^2
R 42 | The area is 42 cm² ¦ The area is 42 cm^{2} ¦ The area is $42\text{ cm}^2$ ¦ The area is 42 m2
R 42 | The final answer is 42°. ¦ The final answer is $42^\circ$. ¦ The final answer is 42 °C.
R 42 | The final answer is 42 (forty-two) pens. ¦ The final answer is 42 out of 50.
R 42 | The final answer is 42, since 6 * 7 = 42. ¦ The final answer is 42 (6 * 7 = 42).
R 42 | The final answer is 42 units of H2O. ¦ She needs 42 bottles of H2O ¦ The answer is x2 = 42
R 42 | It starts after 42 minutes, at 3:30 ¦ The final answer is 42 gallons of paint for 12 rooms.
R 42 | The final answer is approx. 42 pens. ‖ R 5 | The final answer is the 5th day. ¦ The final answer is 5th.
R 5 | The final answer is that Mr. Jones has 5 pens. ¦ The final answer is no. 5
U 3 | The final answer is 3:30 pm. ‖ U 4 | The final answer is 3:4.
R 18 | The final answer is 18 dollars in 7 days. ¦ The final answer is Janet makes $18 every day.
# larger and smaller
R 2500000 | The final answer is 2.5 million. ¦ The final answer is $2.5M. ‖ R 2.5 | The final answer is 2.5 million.
R 2.5 million | The final answer is 2500000. ‖ R 2,500,000 | The final answer is 2.5 million dollars.
R 3000000000 | The final answer is $3 billion. ‖ R 5000 | The final answer is 5k. ‖ R 5 | The final answer is 5K.
W 2 million | The final answer is 2 thousand. ‖ R 24 | The final answer is 2 dozen.
R 2 | The final answer is 2 dozen eggs. ‖ R 200 | The final answer is 2 hundred. ‖ R 42 | The final answer is 42m.
W 42000000 | The final answer is 42m. ‖ R 1500 | The final answer is 1.5e3. ¦ The final answer is 1.5E+3.
R 1500 | The final answer is 1.5 x 10^3. ¦ The final answer is 1.5 × 10^3. ¦ The final answer is 1.5*10**3.
R 1500 | The final answer is $1.5 \times 10^{3}$. ‖ R 0.0015 | The final answer is 1.5e-3.
R 0.0015 | The final answer is $1.5 \cdot 10^{-3}$. ‖ R 1000000 | The final answer is 10^6.
R 1000000 | The final answer is $10^{6}$. ‖ U 1 | The final answer is 1e999999999. ‖ U 2 | The final answer is 2^10.
R 9×90 | The final answer is 9×90. ‖ U 9 | The final answer is 9×5000.
W 12345678901234567891 | The final answer is 12345678901234567890.
# in words
R 42 | The final answer is forty-two. ¦ The final answer is forty two. ¦ The final answer is Forty-Two pens.
R 42 | Forty-two ¦ Forty-two. ‖ R 105 | The final answer is one hundred and five.
R 100 | The final answer is a hundred. ‖ R 2304 | The final answer is two thousand three hundred and four.
R 1200000 | The final answer is one million, two hundred thousand. ‖ R 12 | The final answer is a dozen.
R 12 | The final answer is that there are twelve pens. ‖ R 24 | The final answer is two dozen.
R 0 | The final answer is zero. ‖ R 1 | The final answer is one. ‖ R 0.5 | The final answer is one half.
R 1/2 | The final answer is half. ‖ R 0.75 | The final answer is three quarters.
R 2/3 | The final answer is two-thirds. ‖ R 2.5 | The final answer is two and a half.
R 21.75 | The final answer is twenty-one and three quarters. ‖ W 40 | The final answer is forty-two.
W 2 | The final answer is forty-two. ‖ U 1 | The final answer is one of these. ¦ The final answer is someone.
R 10 | The answer is ten. He has 3 pens. ‖ U 42 | I do not know.
# markdown and LaTeX
R 42 | The final answer is **42**. ¦ The final answer is **42.** ¦ The final answer is *42*.
R 42 | The final answer is __42__. ¦ The final answer is `42`. ¦ The final answer is "42".
R 42 | The final answer is $42$. ¦ The final answer is $$42$$. ¦ The final answer is:⏎$$⏎42⏎$$
R 42 | The final answer is \(42\). ¦ The final answer is \[42\] ¦ The final answer is $x = 42$.
R 42 | The final answer is \textbf{42}. ¦ The final answer is $\approx 42$. ¦ The final answer is $\mathbf{42}$.
R 42 | The final answer is ４２. ¦ The final answer is <b>42</b>. ¦ **The answer is 42.**
R 42 | The answer is **$42** per day. ¦ The final answer is\u200b 42. ¦ Therefore, $6 \times 7 = 42$
R 42 | = \frac{84}{2} ¦ Therefore:⏎\begin{align*}⏎x &= 42⏎\end{align*} ‖ R 73 | ✅ Final Answer: **73**
R 73 | Thus the number of residents who own all four is **73**. ¦ Left: 437 + 468 = 905⏎⏎---⏎⏎✅ Final Answer: **73**
# worked statements
R 42 | The final answer is 40 + 2 = 42. ¦ The final answer is 40 + 2 = 42 pens. ¦ The answer is 6*7=42.
R 42 | The final answer is x = 42. ¦ The answer isn't 41. It's 42 ¦ Let me find the answer. It is 42
R 42 | Answer: Let's think. 20 + 2 = 22 pens.⏎Then 22 + 20 = 42
R 42 | Answer: 20 + 2 = 22 pens.⏎Then she has 22 + 20 = 42
R 42 | Plan: add.⏎Answer: First 20 + 2 = 22 pens.⏎Then 22 + 20 = 42 ¦ We must answer: how many in 3 days? In all 42
R 42 | Answer: 42⏎⏎Explanation: 20 + 2 = 22 and 22 + 20 = 42, in 2 steps. ¦ The answer is as follows. 40 + 2 = 42
R 18 | The answer is 9*2=$<<9*2=18>>18. ¦ The final answer is 9 x 2, or 18.
R 18 | 2 * 9 = 18⏎⏎**Answer:** Janet makes $18 every day, 7 days a week. ¦ Answer: Janet makes $18 every day
R 18 | Answer: Janet sells 16 - 7 = 9 eggs a day.⏎She makes 9 * 2 = $18
R 8 | The answer is 5 apples + 3 apples = 8 apples ‖ W 6 | The final answer is 6 * 7.
W 40 | The final answer is 40 + 2. ‖ W 42 | The answer is 42 = 6 * 7. ‖ W 41 | The answer is not 41 but 42.
R 35 | The answer is 5 per day. In all the answer is 35. ‖ R 6 | The answer is 5. Wait, no. The answer is 6.
W 5 | The answer is 5. Wait, no. The answer is 6. ‖ U 42 | The final answer is unknown
R 5 | The final answer is 5 pens, not 7.
# without a marker
R 42 | 42 ¦ 42. ¦ ␣42⏎ ¦ $42 ¦ She has 42 pens ¦ She has 42 pens. ¦ 40 + 2 = 42 ¦ 40 + 2 = <<40+2=42>>42
R 42 | 1. She buys 40.⏎2. She finds 2, so 42 in all.⏎3. That is it.
R 42 | Step 1: 40 pens.⏎Step 2: 40 + 2 = 42 pens.⏎Step 3: Done. ¦ Total:⏎42. ‖ W 7 | 7 of the 42
R 18 | 18. So it is ‖ U 42 | ∅ ¦ ␣␣␣⏎ ¦ ... ¦ No number here, sorry. ¦ , ¦ $ ¦ - ¦ x2 y3
# markdown headings
R 42 | #### 1. Count the pens⏎She has 40 + 2 = 42 pens ¦ #### Step 1⏎20 + 22 = 42 ¦ #### Solution⏎42 pens
R 42 | ##### 3⏎In all 42 ¦ #### 2) Add them⏎40 + 2 = 42
# run-on questions
R 42 | 40 + 2 = 42⏎⏎Question: Tom has 3 pens.⏎Answer: 3⏎#### 3
R 42 | 40 + 2 = 42⏎#### 42⏎⏎Question: Tom has 3 pens.⏎Answer: 3⏎#### 3
R 42 | The answer is 42.⏎⏎Q: Tom has 3 pens.⏎A: The answer is 3.
R 42 | The answer is 42.⏎Q: Tom has 3 pens.⏎A: The answer is 3.
R 42 | The answer is 42. Q: Tom has 3 pens. A: The answer is 3.
R 42 | The answer is 42⏎⏎Question 2: Tom has 3 pens.⏎The answer is 3
R 42 | The answer is 42⏎⏎**Question:** Tom has 3 pens.⏎The answer is 3
R 42 | The answer is 42⏎⏎### Question:⏎Tom has 3 pens.⏎The answer is 3
R 42 | The answer is 42⏎⏎Problem:⏎Tom has 3 pens.⏎The answer is 3 ¦ The answer is 42⏎⏎Human: and 3?
R 42 | The answer is 42<|im_end|>⏎<|im_start|>user 3 ¦ The answer is 42</s>3 ¦ The answer is 42<|eot_id|>3
R 42 | The answer is 42<end_of_turn>⏎3 ¦ Q: How many pens?⏎A: The final answer is 42.
R 42 | Question: How many pens has she?⏎Answer: 42 ¦ That answers the question: 42
R 42 | The key question is how many. She has 42
W 3 | 40 + 2 = 42⏎#### 42⏎⏎Question: Tom has 3 pens.⏎Answer: 3⏎#### 3
U 3 | ⏎⏎Q: Tom has 3 pens.⏎A: The final answer is 3.
# thoughts
R 42 | <think>40 + 3 = 43. The final answer is 43.</think>The final answer is 42. ¦ <think>It is 42</think>⏎⏎42
R 42 | <think>⏎Q: what?⏎It is 43.⏎⏎Question: why?</think>⏎She has 42
R 42 | It may be 43. The answer is 43.</think>The answer is 42. ¦ <thinking>43</thinking>42 ¦ [THINK]43[/THINK]42
R 42 | <think>a</think>7<think>b 9</think>42 ¦ I think it is 42 ¦ </think>42
R 42 | <think></think>⏎⏎Question: restated with 3⏎Answer: 42
W 43 | <think>40 + 3 = 43. The final answer is 43.</think>The final answer is 42. ¦ It may be 43.</think>She has 42
R 72 | <think>3 * 8 = 24, + 48 = 72</think> The answer is 72. ‖ U 42 | <think>It is 42</think>
U 42 | <think>It could be 42, or 43 ‖ U 43 | <think>It could be 42, or 43
# golds
R #### 42 | The final answer is 42. ‖ R 20 + 22 = <<20+22=42>>42⏎#### 42 | The final answer is 42.
R 42 apples | The final answer is 42. ‖ R $42.00 | The final answer is 42. ‖ R \boxed{42} | The final answer is 42.
R forty-two | The final answer is 42. ‖ R \frac{1}{2} | The final answer is 1/2.
# ranges and alternatives
W 5 | The final answer is 5-10. ¦ The final answer is 5 - 10. ¦ The final answer is 5 to 10.
W 5 | The answer is 5 to 10 minutes. ¦ The final answer is $5-$10. ¦ \boxed{5-10} ¦ #### 5-10
W 10 | The final answer is 5-10. ‖ R 0.33 | The answer is 0.33 to 2 decimal places. ‖ R 5 | The answer is 10-5=5.
R 1/3 | The answer is 1/3 or 0.33.
# what public harnesses got wrong
R 42 | The answer is 42.0 dollars. ‖ R 42.5 | Answer: $42.50 per person ‖ R 1000 | The answer is 1,000.
R 1000 | The answer is 1e3. ‖ W 1 | The answer is 1,000. ‖ W 000 | The answer is 1,000.
R 2500000 | The answer is 2.5 million. ‖ U 3 | The final answer is 3:30 pm.
U 3 | The ratio is 3:4. The final answer is 3:4. ‖ R 50 | The answer is 50% ¦ The answer is 50 %.
R 50 | The answer is 50 percent. ‖ W 50 | The answer is 0.5. ‖ R 0.5 | The answer is \frac{1}{2}.
R 0.5 | The answer is $\frac12$. ‖ R 0.75 | The answer is $\tfrac{3}{4}$. ‖ W 10 | The answer is 10^3.
R 1234 | The answer is $1{,}234$. ¦ The answer is $1,\!234$. ¦ The answer is \$1,234.00
R 12 | The answer is 12 hours. ¦ The answer is 12 (hours). ¦ The answer is 12. (2 days)
R 12 | So the answer is: 12 apples. ¦ The answer is twelve. ¦ The answer is a dozen.
R 105 | The answer is one hundred and five. ‖ R 25 | The answer is twenty five. ‖ R 0 | The answer is zero.
R 0 | The answer is -0. ‖ R 7 | The answer is +7. ¦ The answer is 007. ¦ The answer is 7th. ¦ The answer is #7.
R 7 | The answer is no. 7. ¦ The answer is 7! ‖ R -7 | The answer is \u22127. ¦ The answer is (-7).
R 1500 | The answer is 1.5e3. ‖ R 350 | The answer is $3.5 \times 10^2$. ‖ R 1/2 | The final answer is 6/12.
R 2.5 | The answer is 2 1/2 hours. ‖ R 1.5 | The answer is 150%. ‖ R 18 | The answer is 18 (9*2).
R 18 | The answer is 18, because 9*2=18. ¦ The answer is 18 because 16-7=9 and 9*2=18. ¦ The answer is 18?
R 18 | Thus \boxed{\$18}. ¦ Thus \boxed{18\text{ eggs}}. ¦ Thus \boxed{18 \, \text{cm}}. ¦ Thus \boxed{18\%}.
R 18 | Thus \boxed{18^\circ}. ¦ Thus \boxed{18\text{ cm}^2}. ¦ Thus \boxed{x=18}. ¦ Thus \boxed{\approx 18}.
R 18 | Thus $\boxed{18}$ and $2+2=4$. ¦ Thus \boxed{18.} ¦ Thus \boxed{18.00} ¦ Answer: 18 km/h ¦ Answer: 18 m^2
R 18 | Answer: 18 cm3 ¦ Answer: 18m² ¦ Answer:18 ¦ A: 18 ¦ Therefore the answer is⏎⏎18. ¦ = 18
W 18 | The answer is 9 because 16-7=9. ¦ The answer is 18⏎⏎The answer is 20 ¦ 18⏎20 ‖ R 1800 | Thus \boxed{1\,800}
R 18500 | The answer is $18.5k ‖ R 18000 | The answer is 18K. ‖ U 18 | The answer cannot be determined.
U 18 | The answer is None. ¦ The final answer is NaN. ¦ The final answer is infinity.
R 36 | The answer is 3 dozen.
# several answers
U 1 | \boxed{1,2,3,4,5,6,7,8,9} ¦ \boxed{1, 2} ¦ The answer is 1, 2 and 3. ¦ The final answer is 1 or 2.
U 5 | <answer>5 or 6</answer> ¦ Answer: 5 or 6 ¦ The answer is either 5 or 6. ¦ \boxed{x=5, y=6} ¦ #### 5 or 6
U 5 | The final answer is 5 and 6. ¦ Earlier I had 5. The answer is 6 or 7. ¦ The answer is 5, or maybe 6.
R 1/3 | The answer is 1/3 or about 0.33. ‖ R 42 | The final answer is 42, or 42.0.
R 42 | The answer is 5 or 6. No, the answer is 42.
R 42 | The final answer is 41 or 42. In fact the final answer is 42.⏎
# bounds
U 42 | The final answer is less than 42. ¦ The final answer is at least 42. ¦ \boxed{>42} ¦ \boxed{\leq 42}
U 42 | \boxed{x \ge 42}
U 42 | The answer is more than 42 km. ¦ The answer is 42 or more. ¦ The answer is up to 42. ¦ #### <42
U 5 | \boxed{\pm 5} ¦ \boxed{5 \pm 1} ¦ The answer is ±5. ¦ The answer is +/- 5. ¦ The answer is between 5 and 10.
# part of an expression
U 2 | \boxed{2 \sqrt{3}} ¦ \boxed{2x} ¦ \boxed{2 \pi} ¦ \boxed{2\log 3} ¦ \boxed{\log_2 8} ¦ \boxed{2^n}
U 2 | \boxed{2e} ¦ \boxed{2i}
U 5 | \boxed{5!} ¦ \boxed{\binom{5}{2}} ¦ The answer is $5!$. ¦ \boxed{5n} ¦ \boxed{5(x+1)} ¦ \boxed{5 \pmod{7}}
U 5 | \boxed{5\theta}
U 1011 | \boxed{1011_2} ¦ \boxed{1011_{2}} ¦ The answer is 1011 base 2. ‖ U 3 | We have 3 pens. \boxed{2\sqrt{3}}
W 10 | The final answer is 10⁶. ‖ R 1000000 | The final answer is 10⁶. ¦ 10⁶ ‖ R 1500 | The final answer is 1.5 × 10³.
R 0.001 | The final answer is 10⁻³.
# several units
U 2 | The final answer is 2 hours and 30 minutes. ¦ The answer is 2 hours 30 minutes. ¦ Answer: 2h30m
U 2 | \boxed{2 \text{ ft } 3 \text{ in}}
R 42 | The answer is 42 km in 3 hours. ¦ The answer is 42 out of 100 pens. ¦ The answer is 42 m/s^2.
R 42 | The answer is 42 - that is all.
# signs, scripts and separators
R -42 | #### - 42 ¦ Answer: - 42 ‖ W 42 | #### - 42 ‖ R 1/3 | \boxed{0.\overline{3}} ‖ R 1/6 | \boxed{0.1\overline{6}}
R 4.5 | الإجابة هي ٤٫٥ ‖ R 1234 | The final answer is $1, 234. ‖ R 42 | উত্তর: ৪২ ¦ उत्तर: ४२ ¦ ۴۲
R 42 | Antwort: 42 ¦ Respuesta: 42 ¦ La respuesta es 42. ¦ Réponse : 42 ¦ Ответ: 42 ¦ 答え：42 ¦ คำตอบ: 42 ¦ Jibu: 42
R 42 | సమాధానం: 42
# marks of thoughts and turns
R 42 | <|channel|>analysis<|message|>41.<|end|><|start|>assistant<|channel|>final<|message|>It is 42.<|return|>
U 42 | <|channel|>analysis<|message|>So the answer is 42. But wait ¦ [THINK]The answer is 42. But
U 42 | <think>The answer is 42. But
R 42 | <seed:think>The final answer is 41. </seed:think>42 ¦ <|channel>thought⏎The final answer is 41. <channel|>42
R 42 | <|begin_of_thought|>It is 41. <|end_of_thought|>⏎<|begin_of_solution|>It is 42.<|end_of_solution|>
R 42 | <|START_THINKING|>41<|END_THINKING|><|START_RESPONSE|>42<|END_RESPONSE|>
R 42 | <reasoning>The answer is 41.</reasoning><answer>42</answer>
R 42 | <|im_start|>assistant⏎The answer is 42<|im_end|>⏎<|im_start|>user⏎3 ¦ 42<turn|>⏎<|turn>user⏎3 ¦ 42<|return|>3
""")

TEXT = read_table(r"""
# statements
R Paris | The final answer is Paris. ¦ The final answer is paris ¦ The final answer is Paris. It has 2 airports.
R Paris | The answer is Paris, which lies on the Seine. ¦ The answer is: Paris ¦ The answer is **Paris**.
R Paris | The answer is "Paris". ¦ Answer: Paris ¦ #### Paris ¦ \boxed{\text{Paris}} ¦ \boxed{Paris}
R Paris | <answer>Paris</answer> ‖ W Paris | The answer is Rome. ¦ The answer is not Paris.
R Seine | The answer is the Seine. ‖ R the Seine | The answer is Seine. ‖ R Dr. Watson | The answer is Dr. Watson.
R Dr. Watson | The final answer is Dr. Watson. He is a doctor.
R J. K. Rowling | The final answer is J. K. Rowling. She wrote it.
R 3:30 p.m. today | The final answer is 3:30 p.m. today ‖ R 3:30 | The final answer is 3:30.
R 2 Chronicles | The answer is 2 Chronicles. ‖ W 2 Chronicles | The answer is 3 Chronicles.
R yes | The answer is yes, because it rains. ¦ The answer is Yes because it rains.
R no | The answer is no. It does not rain. ‖ W yes | The answer is no. It does not rain.
R B | The final answer is B. Because of that. ¦ The answer is (B).
# without a marker
R Paris | Paris ¦ ␣Paris.⏎ ¦ Paris. It is in France. ¦ Paris⏎It is in France. ¦ Paris⏎⏎Q: And of Italy?⏎A: Rome
R Paris | “Paris” ¦ <think>Rome</think>Paris ¦ ＰＡＲＩＳ ‖ W Rome | Paris⏎⏎Q: And of Italy?⏎A: Rome
R yes | Yes, it does. ‖ W Paris | It is Paris. ¦ <think>Paris</think>Rome ‖ R new york | New  York ‖ U Paris | ∅
U Paris | ... ¦ <think>Paris ‖ R reversed: c b a | reversed: c b a ‖ W a b c | c b a
# typography
R Don't stop | The answer is “Don’t stop”. ‖ R שלום | The answer is \u200fשלום\u200f.
R well-known | The answer is ‑well‑known.
W C# | The answer is C. ‖ W C | The answer is C#. ‖ R C# | The answer is C#. ‖ W (1, 2) | The answer is [1, 2].
R B | Answer: [B]
W HOME | The answer is $HOME. ‖ R $HOME | The answer is `$HOME`. ‖ R (1, 2) | The answer is (1, 2).
R king of the hill | king of the hill
""")

CHOICE = read_table(r"""
# statements
R C | The correct option is c. ¦ I take option (c) ¦ It is choice (c), as shown.
R B | The answer is B. ¦ The answer is (B). ¦ The answer is [B] ¦ The answer is **B**.
R B | The answer is **(B)** Paris. ¦ The answer is B) Paris. ¦ The answer is option B. ¦ The answer is Option (B).
R B | The answer is choice B, as shown. ¦ The answer is B because a car moves.
R B | The answer is B. Note that A is a common distractor. ¦ Answer: B ¦ Answer: b ¦ Answer: (b) ¦ Answer:⏎⏎B
R B | Answer: B. Paris ¦ **Answer: B** ¦ **Answer:** B ¦ \boxed{B} ¦ \boxed{\text{B}} ¦ \boxed{\textbf{(B)}}
R B | $\boxed{\text{(B) } 12}$ ¦ <answer>B</answer> ¦ The final answer is B.⏎ ¦ The final answer is B. Because of C
R B | The correct answer is therefore (B). ¦ The answer is: $B$ ¦ The correct option is B.
R B | The correct choice is (B) ‖ R C | The answer is C because I computed the integral. ¦ Answer: A⏎No: Answer: C
R C | Antwort: C is my Answer: C ‖ R D | ANSWER IS D. A is incorrect. ‖ R A | The answer is A.
R A | The answer is A because it moves. ¦ Answer seems to be A.⏎⏎Answer: A ‖ W B | The answer is A
W C | The answer is B. ‖ U B | The answer is not B. ¦ The answer is B or C. ¦ The answer is Bob.
U A | The answer is a dog. ¦ The answer is A dog. ¦ The answer is A and C.
# without a marker
R B | B ¦ ␣B⏎ ¦ B. ¦ (B) ¦ B) Paris ¦ B. Paris ¦ **B** ¦ B: Paris ¦ We look at each.⏎⏎B
R B | We look at each. Option B fits best. ¦ We look at each, and (B) fits. ¦ I would pick option B, a safe choice.
R B | B⏎⏎Question: next⏎Answer: C ¦ <think>A, or (C)?</think>B ‖ U B | Either option A or option B ¦ <think>It is B
U A | A dog is an animal. ¦ Both (A) and (B) ¦ ∅ ¦ I do not know. ‖ R (B) | B ‖ R B) Paris | B ‖ R b | B ‖ W B | D
# short and foreign
R B | b ¦ (b) ¦ b) Paris ¦ b. 4 ¦ b. ¦ Correct: B ¦ It's B. ¦ => B ¦ ### B ¦ → B ¦ Therefore: B ¦ Antwort: B ¦ 答案：B
R B | Ｂ ¦ （Ｂ）
R B | Answer: rules out C, leaving B ¦ pick B — a safe choice ¦ B — Paris ¦ I'd go with B. ¦ B is correct.
R B | The correct one is B.
R B | A and C are wrong.⏎So it must be B. ¦ Not A. It is B. ¦ Réponse : B ¦ The right answer: option b ¦ ∴ B
U B | It is not B. ¦ It's B or C. ¦ Is it B, or C? ¦ bread ¦ a b c ¦ The answer is C++.
""")

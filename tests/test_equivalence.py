r"""The engine against a table of cases grouped by kind, properties and hostile input.

CASES is the specification: kind -> (gold, answer, are they equal?, why). Every row is tried in both
directions.

    pytest tests/test_equivalence.py
"""

import doctest
import random
import sys
import threading
import time
import tracemalloc
from fractions import Fraction

import mpmath
import pytest

from lib import equivalence
from rewards import extract_answer, score

CASES = {
    "integers": [
        ("18", "18", True, "the same"),
        ("18", "18.", True, "a full stop ends the sentence"),
        ("18", "18.0", True, "exact decimal"),
        ("18", "+18", True, "explicit sign"),
        ("18", "018", True, "leading zeros carry no value"),
        ("-2", "−2", True, "Unicode minus"),
        ("-2", "–2", True, "en dash used as a sign"),
        ("18", "81", False, "digits swapped"),
        ("18", "-18", False, "sign"),
        ("18", "19", False, "off by one"),
        ("18", "180", False, "a digit more"),
        ("1" + "0" * 300, "10^{300}", True, "integers of any size are exact"),
        ("1" + "0" * 300, "10^{300}+1", False, "one part in 10^300"),
        ("9" * 40, "9" * 39 + "8", False, "beyond double precision"),
        ("--5", "5", True, "two minus signs"),
    ],
    "thousands": [
        (r"10,\!080", "10080", True, "MATH's spelling"),
        (r"10,\!080", "10,080", True, "plain comma"),
        (r"10,\!080", r"10\,080", True, "thin space"),
        (r"10,\!080", "10 080", True, "spaces between groups of three"),
        (r"10,\!080", "10 80", False, "no group of three"),
        (r"1,000,\!000,\!000", "10^9", True, "commas of both kinds"),
        ("10{,}080", "10080", True, "braced comma"),
        (r"11,\! 111,\! 111,\! 100", "11111111100", True, "space after the command"),
        ("58,500", "58500", True, "ambiguous comma, read as grouping"),
        ("1,234,567.5", "1234567.5", True, "decimals after groups"),
        (r"10,\!080", "10,080,0", False, "not groups of three"),
        (r"10,\!080", "1080", False, "a digit lost"),
        ("(1,234)", "1234", False, "inside brackets a comma separates"),
        (r"\{101,103\}", "101103", False, "inside braces a comma separates"),
        ("69,84", "6984", False, "two values, not one"),
        ("69,84", "84, 69", True, "a list in any order"),
        ("70,110", "110, 70", True, "ambiguous comma beside a clear list"),
        ("70,110", r"x = 110 \text{ or } x = 70", True, "ambiguous comma beside a clear list"),
        ("31,250", "250,31", False, "ambiguous commas group"),
        (r"\$115,000", r"\$115,00", False, "a digit lost"),
        ("10,080", "80, 10", False, "no list has 080 in it"),
        ("2400, 1350, 864", "864,1350,2400", True, "a list with spaces"),
        (r"1,\,234", "1234", False, "comma and thin space separate"),
        ("10,080", "(10,080)", False, "a number is not a pair"),
    ],
    "decimals and fractions": [
        (r"\frac{14}{3}", "14/3", True, "slash"),
        (r"\frac{14}{3}", r"\dfrac{14}{3}", True, "display style"),
        (r"\frac{14}{3}", r"\tfrac{14}3", True, "text style, bare digit"),
        (r"\frac43", r"\frac{4}{3}", True, "bare digits"),
        (r"\frac 59", "5/9", True, "space and bare digits"),
        (r"\frac{270}7", "270/7", True, "half braced"),
        (r"-\frac{35}{9}", r"\frac{-35}{9}", True, "sign in the numerator"),
        (r"-\frac{35}{9}", r"\frac{35}{-9}", True, "sign in the denominator"),
        (r"\frac{2}{1005}", r"\frac{4}{2010}", True, "not reduced"),
        ("0.15", r"\frac{3}{20}", True, "decimal"),
        (".0000672", r"6.72 \times 10^{-5}", True, "scientific notation"),
        (".0000672", "6.72e-5", True, "E notation"),
        (r"6.72 \cdot 10^5", "672000", True, "scientific notation, large"),
        (r"\frac{1}{3}", r"0.\overline{3}", True, "repeating decimal is exact"),
        (r"\frac{5}{6}", r"0.8\overline{3}", True, "repeating decimal with a head"),
        (r"\frac{1}{3}", "0.3", False, "rounded"),
        (r"\frac{1}{3}", "0.333333", False, "rounded"),
        (r"\frac{1}{3}", "0.333...", False, "how it goes on is not said"),
        (r"\frac{1}{3}", r"\frac{1}{0}", False, "undefined"),
        (r"\frac{4}{9}", r"\frac{9}{4}", False, "upside down"),
        ("0.15", "1.5", False, "point moved"),
        ("0.15", "0.151", False, "near"),
        ("4.2", "4.3", False, "near"),
        ("5", r"\frac{10}{2}", True, "an equal closed expression"),
        (r"\frac{1}{2}", r"\frac12", True, "two digits"),
        (r"\frac{1}{2}", "½", True, "vulgar fraction"),
        (r"\frac{1}{23}", r"\frac123", False, "TeX takes one digit at a time"),
        ("0.5", "1/2", True, "slash"),
        ("1/2", "1/2/1", True, "division associates to the left"),
        ("2", "1/2", False, "upside down"),
    ],
    "mixed numbers": [
        (r"1\frac{4}{5}", r"\frac{9}{5}", True, "one and four fifths"),
        (r"1\frac{4}{5}", "1 4/5", True, "with a slash"),
        (r"137 \frac{1}{2}", "137.5", True, "decimal"),
        (r"-1\frac45", "-1.8", True, "the sign covers both"),
        ("1½", "1.5", True, "vulgar fraction"),
        (r"137 \frac{1}{2}", r"\frac{137}{2}", False, "not a product"),
        (r"137 \frac{1}{2}", "137", False, "fraction dropped"),
        (r"1\frac{4}{5}", r"\frac{4}{5}", False, "whole part dropped"),
        (r"2\frac{3}{2}", "3", False, "improper: neither a mixed number nor clearly a product"),
        (r"6\frac{1}{6}\text{ feet}", "37/6", True, "with a unit"),
        (r"\frac{3}{4}\pi", r"\frac{3\pi}{4}", True, "no mixed number before a letter"),
        (r"\frac{2}{7} \sqrt{53}", r"2\sqrt{53}/7", True, "fraction times surd"),
    ],
    "percent": [
        ("62.5%", r"62.5\%", True, "escaped"),
        ("62.5%", "0.625", True, "its value"),
        ("62.5%", r"\frac58", True, "its value"),
        ("62.5%", "62.5", True, "sign left out"),
        ("62.5%", r"62.5 \text{ percent}", True, "in words"),
        ("50", r"50\%", True, "the question may ask for percent"),
        ("62.5%", "6.25%", False, "point moved"),
        ("62.5%", r"62.5\%\%", False, "one in ten thousand"),
        ("x^2+33x", r"x\%^2+33x", False, "a hundredth of a variable"),
        (r"\frac{5}{11}", r"\frac{5\%}{11}", False, "only a whole answer is read in percent"),
        (r"\frac{1}{4}", r"\frac{1}{4\%}", False, "only a whole answer is read in percent"),
        (r"0.5\%", r"50\%", False, "a hundredth of it"),
        (r"8 \%", "0.8", False, "neither its value nor its number"),
    ],
    "degrees": [
        (r"90^\circ", "90", True, "sign left out"),
        (r"90^\circ", r"90^{\circ}", True, "braces"),
        (r"90^\circ", "90°", True, "Unicode"),
        (r"90^\circ", r"90 \text{ degrees}", True, "in words"),
        (r"90^\circ", r"90\degree", True, "another command"),
        (r"\frac{270}7\text{ degrees}", r"\frac{270}{7}^\circ", True, "a fraction of degrees"),
        (r"90^\circ", r"\frac{\pi}{2}", True, "the same angle"),
        ("90", r"\frac{\pi}{2}", False, "a number is not an angle"),
        (r"90^\circ", r"90 \text{ radians}", False, "another unit"),
        (r"90^\circ", r"91^\circ", False, "another angle"),
        (r"(6,235^\circ)", "(6, 235)", True, "inside a tuple"),
        (r"\cos 13^\circ", r"\cos \frac{13\pi}{180}", True, "inside a function"),
        (r"\cos 13^\circ", r"\cos 13", False, "13 radians"),
        (r"2\cos 15^{\circ}", r"\frac{\sqrt6+\sqrt2}{2}", True, "exact value"),
        (r"\tan 15^\circ", r"2-\sqrt3", True, "exact value"),
        (r"18.8^{\circ}", "18.8", True, "decimal"),
    ],
    "units": [
        (r"15\mbox{ cm}^2", "15", True, "left out"),
        (r"15\mbox{ cm}^2", r"15 \text{ cm}^{2}", True, "another macro"),
        (r"15\mbox{ cm}^2", r"15 \text{ square centimeters}", True, "in words"),
        (r"864 \mbox{ inches}^2", r"864 \text{ in}^2", True, "abbreviated"),
        (r"864 \mbox{ inches}^2", r"864\,\mathrm{in}^2", True, "mathrm"),
        (r"15\mbox{ cm}^2", r"15 \text{ m}^2", False, "another unit"),
        (r"15\mbox{ cm}^2", r"15 \text{ cm}^3", False, "another power"),
        (r"5.4 \text{ cents}", "5.4", True, "left out"),
        (r"5.4 \text{ cents}", r"\$5.4", False, "dollars are not cents"),
        (r"18\text{ ways.}", "18", True, "a noun"),
        ("18", r"18 \text{ eggs}", True, "a noun"),
        ("18", "18 dollars", True, r"outside \text"),
        ("18", r"18 \text{ dollars per day}", True, "several words"),
        ("12", r"12 \text{ (thirteen)}", False, "a number word is not a unit"),
        (r"65 \text{ children tickets }", r"65 \text{ tickets}", True, "nouns are not compared"),
        (r"\frac{3}{4}\pi\text{ inches}", r"\frac{3\pi}{4}", True, "after pi"),
        (r"12\sqrt{13}\text{ feet}", r"12\sqrt{13}", True, "after a surd"),
        (r"2 \text{ hours}", r"2 \text{ minutes}", False, "another unit"),
        (r"45\text{ mph}", r"45 \text{ miles per hour}", True, "the same unit"),
        ("18", r"18 \text{ hundred}", False, "a number word is not a unit"),
        ("18", r"18 \text{ or more}", False, "a range is not a unit"),
        ("18", r"18 \text{ at most}", False, "a range is not a unit"),
        ("18", r"18 \text{ is wrong}", False, "a sentence is not a unit"),
        ("18", r"18 \text{ not } 17", False, "a sentence is not a unit"),
        ("18", "18x", False, "a letter is not a unit"),
        (r"180\text{ miles}", r"180 \text{ mi}", True, "abbreviated"),
        (r"9\text{ a.m.}", r"9\text{ p.m.}", False, "morning is not evening"),
    ],
    "currency": [
        (r"\$18.90", "18.90", True, "left out"),
        (r"\$18.90", "18.9", True, "trailing zero"),
        (r"\$18.90", "$18.90$", True, "math mode is not currency"),
        (r"\$18.90", r"18.90 \text{ dollars}", True, "in words"),
        (r"\$32,\!348", "32348", True, "with thousands"),
        (r"\$32,\!348", r"\$32,348", True, "with thousands"),
        (r"\$32,\!348", "348", False, "half of it"),
        (r"-\$0.50", "-0.5", True, "sign before the currency"),
        (r"\$18.90", r"18.90 \text{ cents}", False, "cents are not dollars"),
        (r"\$18.90", r"18.90 \text{ euros}", False, "euros are not dollars"),
        (r"\$5", r"5\$", True, "sign after the number"),
        (r"\$ 10", "10", True, "space"),
        ("56", r"5\$6", False, "a dollar sign inside a number"),
    ],
    "surds and powers": [
        (r"3\sqrt{13}", r"\sqrt{117}", True, "under the root"),
        (r"3\sqrt{13}", r"3\sqrt13", True, "all of 13 under the root"),
        (r"\frac{\sqrt{3}}{3}", r"\frac{1}{\sqrt{3}}", True, "rationalised"),
        (r"\frac{\sqrt{3}}{3}", r"\sqrt{\frac{1}{3}}", True, "under the root"),
        (r"\frac{\sqrt{3}}{3}", "3^{-1/2}", True, "a power"),
        (r"\frac{8}{\sqrt[3]{7}}", r"\frac{8\sqrt[3]{49}}{7}", True, "cube root"),
        (r"\frac{8}{\sqrt[3]{7}}", r"8 \cdot 7^{-1/3}", True, "a power"),
        (r"11 \sqrt{5} + 11", r"11(1+\sqrt5)", True, "factored"),
        (r"\sqrt{2}+\sqrt{3}", r"\sqrt{5+2\sqrt{6}}", True, "denesting"),
        ("2^{1009}", r"4^{504}\cdot 2", True, "exact powers"),
        ("2^{1009}", "2^{1009}-1", False, "off by one"),
        ("2^{-2 / 3}, 8", r"8, \frac{1}{\sqrt[3]{4}}", True, "in a list"),
        (r"\sqrt{51}", "√51", True, "Unicode root"),
        ("-2", r"\sqrt[3]{-8}", True, "odd roots of negatives are real"),
        (r"\sqrt{2}", "1.41421356", False, "rounded"),
        (r"\sqrt{2}",
         "1.4142135623730950488016887242096980785696718753769480731766797379907324784621", False,
         "rounded at 76 digits"),
        (r"\sqrt{2}", r"\sqrt{3}", False, "another root"),
        (r"-\sqrt{3}", r"\sqrt{3}", False, "sign"),
        ("10^{100},10^{1 / 100}", "10^{1/100}, 10^{100}", True, "large and small"),
        ("5", r"\sqrt{25}", True, "an equal closed expression"),
        (r"\frac{100!}{2^{50}}", "100! / 2^{50}", True, "factorial"),
        (r"\frac{100!}{2^{50}}", r"\frac{99!}{2^{50}}", False, "another factorial"),
        ("18", r"18 \cdot 1^{10^{10^{10}}}", True, "one to any power"),
        ("1", "0^0", False, "undefined"),
        ("18", r"18+0\cdot\frac{1}{0}", False, "undefined"),
        (r"\sqrt[4]{8}", "8^{0.25}", True, "fourth root"),
        (r"\pi", r"\pi+10^{-100}", False, "nearer than 50 digits"),
        (r"\pi^2", r"(\pi+e^{-200})^2", False, "nearer than 50 digits"),
    ],
    "logs": [
        (r"2,-\log _{10} 250", r"2, \log_{10}\frac{1}{250}", True, "log of the inverse"),
        (r"\frac{\log 2}{\log 2-\log 3}", r"\frac{\ln 2}{\ln 2-\ln 3}", True, "the base cancels"),
        (r"\frac{\log 2}{\log 2-\log 3}", r"\frac{1}{1-\log_2 3}", True, "change of base"),
        (r"\log_2 8", "3", True, "exact"),
        (r"\log 250", r"\log_{10} 250", True, "a bare log beside base 10"),
        (r"\log 250", r"\log_2 250", False, "another base"),
        (r"(4, \log _{10} 2)", r"(4, \log_{10}2)", True, "in a tuple"),
        (r"\ln 6", r"\ln 2 + \ln 3", True, "sum of logs"),
        (r"\ln 6", r"\ln 2 \cdot \ln 3", False, "not a product of logs"),
        (r"\log_{10} 250", r"\ln 250", False, "another base"),
        (r"\log\left(\frac{2007}{2006}\right)", r"\log 2007 - \log 2006", True,
         "log of a quotient"),
        (r"\left\lfloor\log _{2} n\right\rfloor+1", r"1+\lfloor \log_2(n) \rfloor", True,
         "inside a floor"),
    ],
    "trigonometry": [
        (r"\cot x", r"\frac{1}{\tan x}", True, "definition"),
        (r"\cot x", r"\frac{\sec x}{\sin x} - \frac{\sin x}{\cos x}", True, "identity"),
        (r"\cot x", r"\tan x", False, "upside down"),
        (r"\tan \frac{x}{2}", r"\frac{1-\cos x}{\sin x}", True, "half angle"),
        (r"2 \sin 5x \cos x", r"\sin 6x + \sin 4x", True, "sum of sines"),
        (r"2 \sin 5x \cos x", r"\sin 6x - \sin 4x", False, "difference of sines"),
        ("1", r"\sin^2 x + \cos^2 x", True, "identity"),
        (r"\frac{\sqrt{2}}{2}", r"\sin \frac{\pi}{4}", True, "exact value"),
        (r"\frac{\pi}{6}", r"\arcsin \frac12", True, "inverse"),
        (r"\frac{\pi}{6}", r"\sin^{-1} \frac12", True, "inverse by power"),
        (r"3 \sec \frac{1}{2} \theta", r"\frac{3}{\cos(\theta/2)}", True, "definition"),
        (r"\frac{\pi}{2}", r"\tan \frac{\pi}{2}", False, "undefined"),
        (r"\sin x", r"\sin y", False, "another variable"),
        (r"\sin x", r"\sin(x+2\pi)", True, "period"),
        (r"\sin x", r"\sin(x+\pi)", False, "half a period"),
    ],
    "complex numbers": [
        ("6 - 5i", "-5i+6", True, "order of terms"),
        ("6 - 5i", "6 + 5i", False, "conjugate"),
        ("6+9i", "3(2+3i)", True, "factored"),
        ("-8+6i", "(1+3i)^2", True, "square"),
        (r"-\frac{1}{13} - \frac{5}{13}i", r"\frac{-1-5i}{13}", True, "one fraction"),
        ("i", r"\sqrt{-1}", True, "the root"),
        ("-1", r"e^{i\pi}", True, "Euler"),
        ("-1", "i^2", True, "square"),
        (r"i \sqrt{3}, -i \sqrt{3}", r"\pm i\sqrt{3}", True, "both signs"),
        (r"-32 + 32i \sqrt{3}", r"64 e^{2\pi i/3}", True, "polar form"),
        ("1+274i", "274+i", False, "parts swapped"),
    ],
    "pi and e": [
        (r"288 \pi", "288π", True, "Unicode"),
        (r"18+2\pi", r"2(\pi+9)", True, "factored"),
        (r"\pi", "3.14", False, "rounded"),
        (r"\pi", r"\frac{22}{7}", False, "rounded"),
        (r"\pi", "3.14159265358979323846264338327950288419716939937510582097494459", False,
         "rounded at 62 digits"),
        (r"\frac{20000}{\pi}", r"\frac{\pi}{20000}", False, "upside down"),
        ("262537412640768744", r"e^{\pi\sqrt{163}}", False, "agrees to 30 digits"),
        (r"\pi", r"\frac{\ln(640320^3+744)}{\sqrt{163}}", False, "agrees to 30 digits"),
        (r"\frac{\pi}{2}", r"0.5\pi", True, "decimal factor"),
        (r"\frac{5 \pi}{4} \sqrt{17}", r"\frac{5\pi\sqrt{17}}{4}", True, "one fraction"),
        ("e^2", r"e \cdot e", True, "Euler's number"),
        (r"\frac \pi4 + 2 - \sqrt2", r"2-\sqrt{2}+\frac{\pi}{4}", True, "bare argument"),
    ],
    "polynomials and rational expressions": [
        ("x^3+3x-6", "-6+x^3+3x", True, "order of terms"),
        ("x^3+3x-6", "x^3-3x-6", False, "a sign"),
        ("(a+5)(b+2)", "ab+2a+5b+10", True, "expanded"),
        ("2RC+R+C", "R+C+2RC", True, "letters side by side are a product"),
        ("3R^2", "3r^2", False, "case of a variable"),
        ("2k+2", "2x+2", False, "another variable"),
        ("2k", "2", False, "variable dropped"),
        ("18", "x", False, "a variable is not a number"),
        ("p - q", "q - p", False, "sign"),
        ("5r^5", "5r^4", False, "exponent"),
        ("x^5 - x^4 + x^3 - x^2 + x - 1", "(x-1)(x^4+x^2+1)", True, "factored"),
        (r"\frac{1}{2 n+2}", r"\frac{1}{2(n+1)}", True, "factored"),
        ("-(n-1) / 2", r"\frac{1-n}{2}", True, "sign taken in"),
        (r"\frac{2x-7}{(x+1)(x-2)}", r"\frac{3}{x+1}-\frac{1}{x-2}", True, "partial fractions"),
        (r"\frac{2x-7}{(x+1)(x-2)}", r"\frac{3}{x+1}+\frac{1}{x-2}", False,
         "partial fractions, sign"),
        (r"\frac{2ab}{a^2 + b^2}", r"\frac{2}{\frac{a}{b}+\frac{b}{a}}", True, "nested fractions"),
        (r"\sqrt{a^2 + b^2}", "a+b", False, "the freshman's dream"),
        ("x", r"\sqrt{x^2}", False, "that is |x|"),
        ("|x|", r"\sqrt{x^2}", True, "absolute value"),
        (r"\frac{1}{2},\sqrt{x}", "x^{1/2}, 0.5", True, "in a list"),
        ("2^{n}-n-1", r"2 \cdot 2^{n-1} - n - 1", True, "symbolic exponent"),
        ("2^{n}-n-1", "2^{n}-n", False, "off by one"),
        (r"\binom{2n}{n}", r"\frac{(2n)!}{n!\,n!}", True, "definition"),
        (r"\binom{2n}{n}", r"\binom{2n}{n-1}", False, "the neighbour"),
        (r"\frac{d !}{2 k(d-k) !}", r"\frac{1}{2k}\cdot\frac{d!}{(d-k)!}", True, "factorials"),
        (r"\lfloor\frac{2 n-1}{5}\rfloor", r"\left\lfloor \frac{2n-1}{5} \right\rfloor", True,
         "sizes"),
        (r"\lceil n / 2\rceil+1", r"\lfloor (n+1)/2 \rfloor + 1", True, "for whole numbers"),
        (r"m n-\lfloor m / 2\rfloor", r"mn - \lceil m/2 \rceil", False, "another rounding"),
        ("x-1", r"\lfloor x \rfloor - 1", False, "x need not be whole"),
        ("(-1)^n", r"\cos(\pi n)", True, "for whole numbers"),
        ("x+10^{-80}", "x", False, "a tiny coefficient"),
        ("xy", "yx", True, "a product commutes"),
        ("x_1+x_2", "x_2+x_1", True, "subscripts"),
        ("x_1", "x_2", False, "another subscript"),
        (r"\frac{n(n+1)}{2}", r"\sum_{k=1}^{n} k", False,
         "a sum with a symbolic bound is not judged"),
        ("15", r"\sum_{k=1}^{5} k", True, "a finite sum"),
        ("15", r"\sum_{i=1}^{5} i", True, "i counts"),
        ("n", "|n|", False, "n may be negative"),
        ("n", r"\sqrt{n^2}", False, "n may be negative"),
        ("120", r"\prod_{k=1}^{5} k", True, "a finite product"),
        ("6m", "6M", False, "case of a variable"),
        (r"\frac{bx}{h}(h-x)", r"bx-\frac{bx^2}{h}", True, "expanded"),
        ("x^2", "x2", False, "a power is not a product"),
        ("5", r"\gcd(10,15)", True, "greatest common divisor"),
        ("30", r"\text{lcm}(10,15)", True, "least common multiple"),
        ("1/(2x)", "1/2x", False, "what is divided is not said"),
    ],
    "equations": [
        ("x=5", "5", True, "the value alone"),
        ("5", "x=5", True, "the name added"),
        ("x=5", "5=x", True, "sides swapped"),
        ("x=5", "y=5", False, "another name"),
        ("x=5", "x=6", False, "another value"),
        ("y = 2x + 3", "y = 3+2x", True, "order of terms"),
        ("y = 2x + 3", "2x+3", True, "right side alone"),
        ("y = 2x + 3", "2x - y + 3 = 0", True, "brought to one side"),
        ("y = 2x + 3", "x=2y+3", False, "names swapped"),
        ("y = 2x + 3", "y=3x+2", False, "coefficients swapped"),
        ("5x - 7y + 11z + 4 = 0", "5x-7y+11z=-4", True, "constant on the right"),
        ("5x - 7y + 11z + 4 = 0", "10x-14y+22z+8=0", True, "a common factor"),
        ("5x - 7y + 11z + 4 = 0", "5x+7y+11z+4=0", False, "a sign"),
        ("5x - 7y + 11z + 4 = 0", "5x - 7y + 11z + 4", False, "no equation"),
        (r"\frac{x^2}{16} - \frac{y^2}{9} = 1", "9x^2-16y^2=144", True, "cleared of fractions"),
        ("x^2 + y^2 = 13", "x^2+y^2=14", False, "another circle"),
        ("x^2 + y^2 = 13", "x^2+z^2=13", False, "another variable"),
        ("f(x)=2 x", "2x", True, "right side alone"),
        ("f(x)=2 x", "f(x) = x+x", True, "an equal body"),
        ("f(x)=x+1", "f(x)=x-1", False, "another body"),
        ("f(x)=-1,f(x)=x+1", "f(x)=x+1, f(x)=-1", True, "two functions in any order"),
        ("AB=9, CD=4", "CD=4, AB=9", True, "named values in any order"),
        ("AB=9, CD=4", "AB=4, CD=9", False, "values swapped"),
        (r"a=2, a=-6-4 \sqrt{2}", r"-6-4\sqrt2, 2", True, "one name for the list"),
        ("x_1=3", "x_2=3", False, "another subscript"),
        (r"m_{\max }=n^{2}-n-1", "n^2-n-1", True, "a name with a subscript"),
        ("18", r"x = 9\cdot 2 = 18", True, "a true chain"),
        ("18", "17 = 18", False, "contradiction"),
        ("18", "x = 17 = 18", False, "contradiction"),
        ("18", "2x=18", False, "not solved"),
        (r"0.56 = 56\%", "0.56", True, "a true chain"),
        ("x=0", "x=x", False, "says nothing"),
        (r"k = \frac{-33}{2}", "-16.5", True, "the value alone"),
    ],
    "tuples": [
        (r"\left( 3, \frac{\pi}{2} \right)", r"(3,\pi/2)", True, "sizes and spaces"),
        (r"\left( 3, \frac{\pi}{2} \right)", r"\left(\frac{\pi}{2},3\right)", False,
         "order matters"),
        ("(1,-16,-4,43)", "(1,-4,-16,43)", False, "order matters"),
        ("(6,31,-1)", "(6,31,-1,0)", False, "one more"),
        ("(6,31,-1)", "6,31", False, "one less, no brackets"),
        (r"\left( \frac{3}{2}, -13 \right)", "(1.5,-13)", True, "decimals"),
        ("(2,4)", r"\langle 2, 4 \rangle", True, "angle brackets"),
        ("(3,2)", "[3,2]", False, "other brackets"),
        ("(1,1), (3,2)", "(3,2),(1,1)", True, "a list of points in any order"),
        ("(1,1), (3,2)", "(1,1)", False, "one point missing"),
        ("(1,1), (3,2)", "(1,1),(2,3)", False, "order within a point"),
        ("(0,2),(0,-2)", r"(0,\pm 2)", True, "both signs"),
        ("(2,-3)", "x=2, y=-3", True, "named coordinates in order"),
        ("(2,-3)", "x=-3, y=2", False, "named coordinates swapped"),
        ("-2,1", "(-2,1)", False, "two values are not a point"),
        ("(-4, 27);(2, 15)", "(2,15), (-4,27)", True, "semicolon"),
    ],
    "sets and lists": [
        ("1,-2", "-2,1", True, "any order"),
        ("1,-2", r"\{-2, 1\}", True, "set braces"),
        ("1,-2", r"1 \text{ and } -2", True, "and"),
        (r"-12 \text{ or } -30", "-30, -12", True, "or"),
        (r"7, -2, \text{ and } -5", "-5,-2,7", True, "comma and and"),
        (r"6, 8\text{, and }10", "6, 8, 10", True, "comma inside the text"),
        ("1,-2", "1,-2,0", False, "one more"),
        ("1,-2", "1", False, "one less"),
        ("1,-2", "1,2", False, "sign"),
        ("1,3", "13", False, "run together"),
        ("18", "17, 18", False, "two answers"),
        ("18", "17 or 18", False, "two answers"),
        ("18", r"\{18\}", False, "a set is not its element"),
        (r"\{1\pm\sqrt{5},-2\}", r"1+\sqrt5, -2, 1-\sqrt5", True, "both signs in a set"),
        (r"1, 1, -2, -\frac{1}{2}", "-0.5, 1, 1, -2", True, "multiplicity"),
        (r"1, 1, -2, -\frac{1}{2}", "-0.5, 1, -2, -2", False, "another multiplicity"),
        (r"\{1,2\}", r"\{1,1,2\}", True, "a set has no multiplicity"),
        (r"\emptyset", r"\varnothing", True, "empty"),
        (r"\emptyset", r"\{\}", True, "empty"),
        (r"\emptyset", "0", False, "zero is not the empty set"),
        (r"\text{A, D, F, G, H}", "H, G, F, D, A", True, "choices in any order"),
        (r"\text{B,E}", "B", False, "a choice missing"),
        (r"90^{\circ},60^{\circ}", "60, 90", True, "degrees left out"),
        (r"90^{\circ},60^{\circ}", r"90^\circ", False, "one missing"),
    ],
    "plus or minus": [
        (r"1 \pm \sqrt{19}", r"1+\sqrt{19}, 1-\sqrt{19}", True, "written out"),
        (r"1 \pm \sqrt{19}", r"x=1\pm\sqrt{19}", True, "named"),
        (r"1 \pm \sqrt{19}", r"1+\sqrt{19}", False, "one of them"),
        (r"3 \pm 2 \sqrt{2}", r"3\pm\sqrt{8}", True, "under the root"),
        ("1,-1,7,-7", r"\pm 7", False, "two of four"),
        ("1,-1,7,-7", r"\pm 1, \pm 7", True, "both pairs"),
        (r"\pm 3", "3", False, "one of them"),
        (r"\pm 3", "±3", True, "Unicode"),
        (r"\pm 3", r"\mp 3", True, "the same two"),
        ("18", r"18 \pm 1", False, "a tolerance"),
        (r"\frac{3 \pm \sqrt{21}}{2}", r"\frac{3 - \sqrt{21}}{2},\frac{3 + \sqrt{21}}{2}", True,
         "inside a fraction"),
    ],
    "intervals and unions": [
        ("(3,4]", "(3,4]", True, "the same"),
        ("(3,4]", "[3,4)", False, "ends swapped"),
        ("(3,4]", "(3,4)", False, "an end opened"),
        ("(3,4]", "[3,4]", False, "an end closed"),
        (r"(-\infty, 0]", r"[0,\infty)", False, "the other side"),
        (r"(-\infty, 0]", r"[-\infty, 0]", False, "infinity is not attained"),
        (r"(2,\infty)", "(2, ∞)", True, "Unicode"),
        (r"(2,\infty)", r"x \in (2,\infty)", True, "named"),
        (r"(2,\infty)", "x>2", True, "an inequality"),
        (r"(2,\infty)", r"x \ge 2", False, "the end"),
        (r"x \in [-2,7]", r"-2 \le x \le 7", True, "an inequality"),
        (r"x \in [-2,7]", r"7 \geq x \geq -2", True, "read from the right"),
        (r"x \in [-2,7]", "(-2,7]", False, "the end"),
        (r"x \in [-2,7]", r"-2 \le y \le 7", False, "another name"),
        (r"(-\infty, 2) \cup (3, \infty)", r"(3,\infty)\cup(-\infty,2)", True, "any order"),
        (r"(-\infty, 2) \cup (3, \infty)", r"(-\infty, 2) \cap (3, \infty)", False,
         "an intersection"),
        (r"(-\infty, 2) \cup (3, \infty)", r"(-\infty, 2] \cup [3, \infty)", False, "the ends"),
        (r"(-\infty, 2) \cup (3, \infty)", "(2,3)", False, "the complement"),
        (r"(-\infty, 2) \cup (3, \infty)", r"x<2 \text{ or } x>3", True,
         "inequalities joined by or"),
        (r"(-\infty, 2) \cup (3, \infty)", r"x<2 \text{ and } x>3", False, "nothing lies in both"),
        (r"(-\infty, 2) \cup (3, \infty)", r"\mathbb{R} \setminus [2,3]", True,
         "the complement taken away"),
        (r"(0,9) \cup (9,36)", r"(0,36)\setminus\{9\}", True, "a point taken out"),
        (r"(0,9) \cup (9,36)", "(0,36)", False, "the point left in"),
        (r"(-\infty,3) \cup (3,\infty)", r"x \neq 3", True, "all but one"),
        (r"(-\infty,3) \cup (3,\infty)", r"\mathbb{R}\setminus\{3\}", True, "all but one"),
        (r"(-\infty,\infty)", r"\mathbb{R}", True, "all reals"),
        (r"(-\infty, 0) \cup\{1\}", r"\{1\} \cup (-\infty,0)", True, "with a single point"),
        ("[1,3]", r"[1,2]\cup[2,3]", True, "joined"),
        ("[1,3]", r"[1,2)\cup(2,3]", False, "joined but for a point"),
        (r"(-\sqrt{3}, \sqrt{3})", r"(-\frac{3}{\sqrt3}, \sqrt{3})", True, "exact ends"),
        (r"\left( 0, \frac{1}{\sqrt{2}} \right]", "(0, 0.7071]", False, "a rounded end"),
        (r"k \geqslant 2", r"k \ge 2", True, "another command"),
        (r"k \geqslant 2", r"k \le 2", False, "the other side"),
        (r"-80\leq g(x)\leq 82", "[-80,82]", True, "a range of values"),
        ("18", "[0,100]", False, "a range that holds it"),
        ("18", "x > 17", False, "a range that holds it"),
        (r"[0,\pi]", r"[0, \pi]", True, "pi"),
        ("[a +b, b]", "[b+a, b]", True, "symbolic ends"),
        ("f(2) < f(1) < f(4)", "f(4) > f(1) > f(2)", True, "read from the right"),
        ("f(2) < f(1) < f(4)", "f(2) < f(9) < f(4)", False, "another value of f"),
        ("x < y", "y > x", True, "sides swapped"),
        ("x < y", "x > y", False, "the other way"),
        ("2x < 2y", "x < y", True, "a positive factor"),
        ("-x < -y", "x < y", False, "a negative factor turns it"),
    ],
    "matrices": [
        (r"\begin{pmatrix} -7 \\ 16 \\ 5 \end{pmatrix}", r"\begin{bmatrix}-7\\16\\5\end{bmatrix}",
         True, "other brackets"),
        (r"\begin{pmatrix} -7 \\ 16 \\ 5 \end{pmatrix}", "(-7,16,5)", True, "a vector as a tuple"),
        (r"\begin{pmatrix} -7 \\ 16 \\ 5 \end{pmatrix}", "(16,-7,5)", False, "order"),
        (r"\begin{pmatrix} -7 \\ 16 \\ 5 \end{pmatrix}",
         r"\begin{pmatrix} -7 & 16 & 5 \end{pmatrix}", False, "a row is not a column"),
        (r"\begin{pmatrix} -7 \\ 16 \\ 5 \end{pmatrix}",
         r"\begin{pmatrix} -7 & 16 & 5 \end{pmatrix}^T", True, "transposed"),
        (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", "(1,2)^T", True, "a transposed tuple"),
        (r"\begin{pmatrix} 16/49 \\ 48/49 \end{pmatrix}",
         r"\frac{16}{49}\begin{pmatrix} 1 \\ 3 \end{pmatrix}", True, "a factor"),
        (r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}",
         r"\begin{pmatrix} 1 & 3 \\ 2 & 4 \end{pmatrix}", False, "transposed"),
        (r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}",
         r"\left[\begin{array}{cc} 1 & 2 \\ 3 & 4 \end{array}\right]", True, "an array"),
        (r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}",
         r"\begin{pmatrix} 1 & 2 \\ 3 & 5 \end{pmatrix}", False, "an entry"),
        (r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}",
         r"\begin{vmatrix} 1 & 2 \\ 3 & 4 \end{vmatrix}", False, "a determinant"),
        (r"\begin{pmatrix} 1 & -1 \\ 1 & \phantom -1 \end{pmatrix}",
         r"\begin{pmatrix} 1 & -1 \\ 1 & 1 \end{pmatrix}", True, "a phantom"),
        (r"\begin{pmatrix} -1/3 \\ 2/3 \end{pmatrix}",
         r"\begin{pmatrix} -\frac{1}{3} \\[4pt] \frac{2}{3} \end{pmatrix}", True, "row spacing"),
    ],
    "bases": [
        ("52_8", "52_{8}", True, "braces"),
        ("52_8", "52", False, "base dropped"),
        ("40_9", "40_8", False, "another base"),
        ("2516_8", "10101001110_{2}", True, "the same number"),
        ("152A_{11}", "152A_{11}", True, "letters as digits"),
        (r"\text{A5}_{11}", "A5_{11}", True, "letters as digits"),
        ("52_8", "(52)_8", True, "brackets"),
        ("2516_8", "2816_8", False, "8 is no digit in base 8"),
        ("-37_8", "-37_{8}", True, "sign"),
        ("0.0011_{2}", r"\frac{3}{16}", True, "a fraction in base 2"),
    ],
    "choices, words and names": [
        (r"\text{(C)}", "C", True, "bare letter"),
        (r"\text{(C)}", "(C)", True, "brackets"),
        (r"\text{(C)}", r"\textbf{(C)}", True, "bold"),
        (r"\text{(C)}", r"\mathbf{C}", True, "bold"),
        (r"(\text{E})", "E", True, "brackets outside"),
        (r"\text{(C)}", r"\textbf{(C)}\ 18", True, "the letter and its value"),
        (r"\text{(C)}", "D", False, "another letter"),
        (r"\text{(C)}", "B or C", False, "two letters"),
        (r"\text{(C)}", "(A)(B)(C)", False, "three letters"),
        (r"\text{(C)}", r"\text{not C}", False, "denied"),
        (r"\text{Evelyn}", "Evelyn", True, "bare word"),
        (r"\text{Evelyn}", r"\mathrm{Evelyn}", True, "another macro"),
        (r"\text{Evelyn}", r"\text{ evelyn }", True, "case of a word"),
        (r"\text{Evelyn}", "Eve", False, "half the name"),
        (r"\text{Evelyn}", r"\text{Not Evelyn}", False, "denied"),
        (r"\text{Evelyn}", r"\text{Evelyn or Angela}", False, "two names"),
        (r"\text{east}", "seat", False, "an anagram"),
        (r"\text{CBAD}", "CBDA", False, "an anagram"),
        ("LQSX", r"\text{LQSX}", True, "a word"),
        (r"\text{two lines}", "two lines", True, "two words"),
        (r"\mbox{four}", "4", True, "a number word"),
        (r"\text{4:30 p.m.}", "4:30 PM", True, "time of day"),
        (r"\text{4:30 p.m.}", "4:30 a.m.", False, "morning is not afternoon"),
        (r"\text{odd}", r"\text{even}", False, "another word"),
        (r"\text{June 20}", r"\text{June 21}", False, "another day"),
        (r"\text{Softball, Kickball, Picnic}", "Softball, Kickball, Picnic", True,
         "a list of words"),
        (r"\overline{CD}", r"\overline{CD}", True, "a segment"),
        ("18", "NaN", False, "a word is not a number"),
        ("18", "null", False, "a word is not a number"),
        (r"\text{13}", "13", True, "a number in text"),
    ],
    "ratios": [
        ("1:2", "1 : 2", True, "space"),
        ("1:2", "2:4", True, "proportional"),
        ("1:2", r"\frac12", True, "as a fraction"),
        ("1:2", "2:1", False, "the other way"),
        ("3:5", "3:6", False, "another ratio"),
        ("3:4:5", "6:8:10", True, "proportional"),
        ("3:4:5", "5:4:3", False, "the other way"),
        ("9:24", "3:8", False, "a time of day is not a ratio"),
    ],
    "Unicode and layout": [
        ("18", "𝟏𝟖", True, "bold digits"),
        ("18", "１８", True, "full-width digits"),
        ("18", "١٨", True, "Arabic-Indic digits"),
        ("18", "①⑧", False, "circled numbers are not digits"),
        ("18", "18\u200b7", False, "an invisible space hides nothing"),
        ("x^2+1", "x²+1", True, "superscript"),
        ("52_8", "52₈", True, "subscript"),
        ("18", "{{18}}", True, "braces"),
        ("18", r"\left(18\right)", True, "brackets"),
        ("18", r"\displaystyle 18", True, "style"),
        ("18", r"\boxed{18}", True, "a box in the box"),
        ("18", r"\mathbf{18}", True, "bold"),
        ("18", r"\textcolor{red}{18}", True, "colour"),
        (r"\frac{14}{3}", r"$\frac{14}{3}$", True, "dollar signs"),
        (r"\frac{14}{3}", r"\(\frac{14}{3}\)", True, "inline math"),
        ("18", "**18**", True, "markdown"),
        ("18", "18\\\\", True, "a line break at the end"),
        ("18", "1 8", False, "two numbers"),
        ("18", "17 18", False, "two numbers"),
        ("81", "\u202e18", False, "direction overrides are refused"),
    ],
    "gaming": [
        ("18", "", False, "empty"),
        ("18", r"\phantom{18}", False, "nothing is shown"),
        ("18", "{}", False, "nothing is shown"),
        ("18", r"\approx 18", False, "approximately"),
        ("18", "~18", False, "approximately"),
        ("18", r"18~\text{cm}", True, "a tie is a space"),
        ("18", "17-18", False, "a range is a difference"),
        ("18", "17–18", False, "a range"),
        ("18", r"17 \text{ to } 18", False, "a range"),
        ("18", "17/18", False, "a quotient"),
        ("18", "17 % 18", False, "a comment is no answer"),
        ("18", r"17 \to 18", False, "an arrow"),
        ("18", r"\cancel{17} 18", False, "struck out"),
        ("18", "18?", False, "a question"),
        ("18", "18!", False, "a factorial"),
        ("18", "18...", False, "unfinished"),
        ("18", "exec('raise SystemExit(0)')", False, "code"),
        ("18", "__import__('os').system('true') or 18", False, "code"),
        ("18", "9^{9^{9^9}}", False, "too large"),
        ("18", "(10^9)!", False, "too large"),
        ("18", "7^{7^{7^{7}}} - 7^{7^{7^{7}}} + 18", False, "too large, whatever cancels"),
        ("18", r"\sum_{k=1}^{10^7} 1", False, "too many terms"),
        ("18", r"\infty", False, "infinity"),
        ("18", r"(16-3-4)\times 2", True, "an equal closed expression"),
        ("18", r"x \text{ where } x \text{ is the answer}", False, "words"),
        ("18", "18,18", False, "the same twice is two answers"),
        ("18", r"\frac{18", False, "unfinished"),
        ("18", "18}", False, "unbalanced"),
        ("17", r"\boxed{17}\boxed{17}", False, "two numbers side by side"),
    ],
}


def equal(answer, gold):
    """The comparison without the net of is_equivalent: whatever it raises, the test shows."""
    return bool(equivalence.compare(answer, gold)[0])


@pytest.mark.parametrize("kind", CASES)
def test_table_of_cases(kind):
    """A rule of this kind is missing (equal answers refused) or too wide (a wrong answer rewarded),
    or holds in one direction only."""
    wrong = []
    for gold, answer, expected, why in CASES[kind]:
        for a, b in ((answer, gold), (gold, answer)):
            if equal(a, b) != expected:
                wrong.append((a, b, f"wanted {expected}: {why}"))
    assert not wrong


# ------------------------------------------------------------------------------------- properties
def spellings(value, rng):
    """Some of the ways to write a fraction."""
    n, d = value.numerator, value.denominator
    k = rng.randint(2, 9)
    ways = [
        rf"\frac{{{n}}}{{{d}}}",
        rf"\dfrac{{{n * k}}}{{{d * k}}}",
        f"{n}/{d}",
        rf"\left({n}\right)/{d}",
        rf"x = \frac{{{n}}}{{{d}}}",
        rf"-\frac{{{-n}}}{{{d}}}",
        rf"\frac{{{n * k}}}{{{d}}} \div {k}",
        rf"{n} \cdot {d}^{{-1}}",
        rf"$\frac{{{n}}}{{{d}}}$",
    ]
    if d == 1:
        ways += [str(n), f"{n}.0", f"{n}.", rf"\text{{{n}}}"]
    if d == 1 and abs(n) > 999:
        ways.append(f"{n:,}".replace(",", r",\!"))
    if n > d and n % d:
        ways += [rf"{n // d}\frac{{{n % d}}}{{{d}}}", f"{n // d} {n % d}/{d}"]
    if 10**6 % d == 0:
        ways += [f"{float(value):.6f}", rf"{float(value * 100):.4f}\%"]
    return ways


def test_spellings_of_a_fraction_are_equal_and_its_neighbours_are_not():
    """Rational arithmetic loses a sign, a digit or a factor in one of the notations."""
    rng = random.Random(0)
    for _ in range(300):
        value = Fraction(rng.randint(-3000, 3000), rng.choice([1, 1, 2, 3, 5, 7, 8, 12, 100]))
        near = value + rng.choice([-1, 1]) * Fraction(1, rng.choice([1, 10, 1000, 10**9]))
        ways, others = spellings(value, rng), spellings(near, rng)
        a, b, c = rng.choice(ways), rng.choice(ways), rng.choice(others)
        assert equal(a, b), (a, b)
        percent = ("%" in a) != ("%" in c)  # 50% may be written 50
        assert percent or not equal(a, c), (a, c)


def test_factored_and_expanded_polynomials_are_equal_and_a_changed_coefficient_is_not():
    """The identity test misses a term, or accepts a polynomial that is near."""
    rng = random.Random(2)
    for _ in range(60):
        roots = [rng.randint(-9, 9) for _ in range(rng.randint(1, 4))]
        coefficients = [1]
        for r in roots:
            shifted = zip([*coefficients, 0], [0, *coefficients], strict=True)
            coefficients = [a - r * b for a, b in shifted]
        factored = "".join(f"(x{-r:+d})" for r in roots)

        def expanded(c):
            return "".join(f"{v:+d}x^{{{len(c) - 1 - n}}}" for n, v in enumerate(c))

        assert equal(factored, expanded(coefficients))
        coefficients[rng.randrange(len(coefficients))] += rng.choice([-1, 1])
        assert not equal(factored, expanded(coefficients))


def test_lists_in_any_order_tuples_in_one():
    """Order is ignored where it matters, or demanded where it does not."""
    rng = random.Random(3)
    values = [r"\sqrt{2}", r"\frac12", "3", "-4", r"\pi", "x+1", "2i", "0.25"]
    for _ in range(50):
        items = rng.sample(values, rng.randint(2, 5))
        mixed = rng.sample(items, len(items))
        assert equal(", ".join(items), ",".join(mixed))
        assert equal(", ".join(items), r"\{" + ",".join(mixed) + r"\}")
        point, other = f"({', '.join(items)})", rf"\left({','.join(mixed)}\right)"
        assert equal(point, other) == (items == mixed)
        assert not equal(", ".join(items), ", ".join(items[1:]) + ", 77")


PIECES = [*"0123456789+-*/^_{}()[],.!%|=<>xyei $", "\\", r"\frac", r"\sqrt", r"\pi", r"\left"]
PIECES += [r"\text{", r"\cup", r"\{", r"\}", r"\pm", "\0", "\ud800", "\u200b", "√", "²", "½", "①"]
PIECES += ["∞", "%s", "{0}", "__import__('os')", r"\boxed{", "9^{9", "<think>", "####", " and "]
PIECES += [" or ", r"\infty", r"\in", r"\sum_{k=1}^", r"\log_", r"\sin", r"^\circ", r"\overline{"]
PIECES += [r"\$", ":", "e9", r"\begin{pmatrix}", r"\end{pmatrix}", r"\lfloor", r"\rfloor"]
PIECES += [r"\gcd(", r"\ne", "1,234", r"\phantom{", "degrees"]


def mutate(text, rng):
    """A few random edits with the characters and commands of answers."""
    characters = list(text)
    for _ in range(rng.randint(1, 5)):
        at = rng.randint(0, len(characters))
        kind = rng.random()
        if kind < 0.6:
            characters.insert(at, rng.choice(PIECES))
        elif kind < 0.8 and characters:
            del characters[min(at, len(characters) - 1)]
        else:
            characters[at:at] = characters[max(0, at - 9) : at] * rng.randint(1, 3)
    return "".join(characters)


GOLDS = [gold for rows in CASES.values() for gold, *_ in rows]


def test_equivalence_is_symmetric_on_mutated_answers():
    """A rule looks at the answer and not at the gold, or the verdict depends on which is judged
    first."""
    rng = random.Random(4)
    for _ in range(1500):
        gold = rng.choice(GOLDS)
        answer = mutate(gold, rng)
        assert equal(answer, gold) == equal(gold, answer), (answer, gold)


def test_every_gold_of_the_table_accepts_itself():
    """A gold answer that cannot be parsed must still be won by writing it."""
    for gold in GOLDS:
        assert score(f"\\boxed{{{gold}}}", gold) == 1.0, gold


def test_hypothesis_symmetric_and_reflexive():
    """As above, with inputs that shrink to a small example."""
    hypothesis = pytest.importorskip("hypothesis")
    st = hypothesis.strategies
    pieces = [*"0123456789+-*/^_{}()[],.!%=<>xyi ", r"\frac", r"\sqrt", r"\pi", r"\text{a}"]
    pieces += [r"\cup", r"\{", r"\}", r"\pm", " and "]
    answers = st.lists(st.sampled_from(pieces), max_size=12).map("".join) | st.text(max_size=30)

    @hypothesis.settings(max_examples=200, deadline=None, database=None, derandomize=True)
    @hypothesis.given(answers, answers)
    def check(a, b):
        assert equal(a, b) == equal(b, a)
        assert equal(a, a + "") == bool(a.strip())

    check()


def test_no_letter_is_the_root_of_its_square():
    """The points tried for one letter all happen to be positive, and sqrt(B^2) = B is accepted."""
    for letter in "abcdfghjklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ":
        assert not equal(letter, rf"\sqrt{{{letter}^2}}")
        assert equal(f"|{letter}|", rf"\sqrt{{{letter}^2}}")


# ---------------------------------------------------------------------------------- hostile input
def hostile():
    """Inputs that have hung, crashed or filled the memory of graders."""
    chains = {
        "sum of roots": "+".join(rf"\sqrt{{{n}}}" for n in range(2, 130)),
        "sum of fractions": "+".join(f"1/{p}" for p in range(101, 330)),
        "sum of powers": "+".join(f"3^{{{900 - n}}}" for n in range(130)),
        "powers of i": "(1+i)^{50}" * 110,
        "factors": "(p-q)" * 230,
        "harmonic sum": r"\sum_{k=1}^{900} \frac{1}{k}",
        "many sums": r"+\sum_{k=1}^{4000}k" * 60,
        "a few sums": r"\sum_{k=1}^{4000}k+" * 3 + "1",
        "sums in a list": ",".join([r"\sum_{k=1}^{900}k^2"] * 9),
        "sides that are sums": "=".join([r"\sum_{k=1}^{900}k"] * 9),
        "double sum": r"\sum_{k=1}^{900}\sum_{j=1}^{900} \frac{1}{k+j}",
        "sum of factorials": "+".join(f"1/{990 - n}!" for n in range(150)),
        "equal sides": "=".join([r"\sqrt{2}", "2^{1/2}"] * 60),
        "many sides": "=".join("xyzabc" * 90),
        "unequal sides": "<".join("xyzabc" * 90),
        "set": r"\{" + ",".join(map(str, range(280))) + r"\}",
        "set of roots": r"\{" + ",".join(rf"\sqrt{{{n}}}" for n in range(2, 90)) + r"\}",
        "intervals": r"\cup".join(rf"(\sqrt{{{n}}},{n + 1})" for n in range(50)),
        "logs": "+".join(rf"\ln(x+{n})" for n in range(2, 110)),
        "floors": "+".join(rf"\lfloor n/{n}\rfloor" for n in range(2, 70)),
        "fractions inside": r"\frac{1}{1+" * 200 + "1" + "}" * 200,
        "towers": "e^{e^{e^{e^{9}}}}",
        "postfix": "5" + "!" * 1000,
        "carets": "^".join(["9"] * 500),
        "small": "+".join(["10^{-999}"] * 100) + "+1",
        "brackets": "(" * 500 + "1" + ")" * 500,
        "a million digits": "9" * 10**6,
        "nested roots": r"\sqrt{" * 10_000 + "2" + "}" * 10_000,
        "texts": r"5 \text{ab}" + r" \text{ab}" * 100 + " 5",
        "texts in powers": r"5 \text{ab}^2 /" * 60 + " 5",
        "NUL": "1\0008",
        "surrogate": "\ud800",
        "format": "%s%n{0}{}",
        "code": "__import__('os').system('true')",
    }
    whole = {name: f"\\boxed{{{text}}}" for name, text in chains.items()}
    whole["bytes"] = bytes(range(256)).decode("latin1") * 4000
    whole["braces"] = "{" * 10**6
    whole["boxes"] = r"\boxed{" * 150_000
    whole["boxes of braces"] = (r"\boxed{" + "{" * 19_000) * 52
    whole["box of braces"] = r"\boxed{" + "{" * 10**6 + "}" * 10**6 + "}"
    whole["backslashes"] = "\\" * 10**6 + "boxed{18}"
    whole["answers"] = "answer is " * 100_000
    whole["hashes"] = "#" * 10**6
    whole["thoughts"] = "<think>" * 150_000
    return whole


@pytest.mark.parametrize("name", hostile())
def test_hostile_input_is_cheap(name):
    """Some step is not bounded: an exponent is computed, a regular expression backtracks, a loop is
    quadratic."""
    response = hostile()[name]
    for gold in ("18", r"\sqrt{x}", r"\pi", "1,2", "(0,1)"):
        seconds = []
        for _ in range(3):  # the best of three: the machine may be busy
            start = time.thread_time()
            assert score(response, gold) == 0.0
            seconds.append(time.thread_time() - start)
        assert min(seconds) < 0.05, (name, gold, min(seconds))
        answer = extract_answer(response)
        if answer is not None:
            equal(answer, gold)  # without the net: nothing is raised


LARGE = ["a million digits", "sum of factorials", "box of braces", "nested roots", "double sum"]


@pytest.mark.parametrize("name", [*LARGE, "bytes"])
def test_hostile_input_takes_little_memory(name):
    """A copy per box or a number of millions of digits would exhaust the machine when thousands of
    responses are graded."""
    response = hostile()[name]
    score(response, "18")
    tracemalloc.start()
    score(response, "18")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8e6


def random_text(rng):
    """Characters of all kinds, ASCII more often."""
    highest = [0x110000 if rng.random() < 0.3 else 128 for _ in range(rng.randrange(80))]
    return "".join(chr(rng.randrange(top)) for top in highest)


def test_random_and_mutated_strings_raise_nothing_and_stay_cheap():
    """A combination nobody thought of raises or hangs. (Without the net of is_equivalent.)"""
    rng = random.Random(5)
    slow = 0
    for n in range(6000):
        if n % 3 == 0:
            answer = random_text(rng)
        elif n % 3 == 1:
            answer = mutate(rng.choice(GOLDS), rng)
        else:
            answer = mutate("", rng) + mutate("", rng) + mutate("", rng)
        start = time.thread_time()
        equal(answer, rng.choice(GOLDS))
        extract_answer(f"\\boxed{{{answer}}}")
        slow += time.thread_time() - start > 0.05
    assert not slow


def test_few_frames_are_needed():
    """Deep answers or a deep caller end in RecursionError, which then depends on who calls."""
    texts = ["x^{1+" * 60 + "2" + "}" * 60, "(" * 200, r"\frac{" * 100, r"\sqrt" * 200 + "2"]
    texts += ["x_{" * 99 + "y" + "}" * 99, "x^{1+" * 11 + "2" + "}" * 11]
    texts += [r"\sqrt{1+" * 11 + "x" + "}" * 11, r"\{1," * 11 + "2" + r"\}" * 11]

    def deep(n):
        if n:
            return deep(n - 1)
        return [equal(text, gold) for text in texts for gold in ("18", text + "+1")]

    frame, used = sys._getframe(), 0
    while frame:
        frame, used = frame.f_back, used + 1
    assert not any(deep(sys.getrecursionlimit() - used - 300))


def test_threads_do_not_share_precision():
    """mpmath's global context is shared: one thread lowering its digits would make another accept a
    rounded decimal."""
    rounded = "3.14159265358979323846264338327950288419716939937510582097494459"
    pairs = [(r"\sqrt{2}+\sqrt{3}", r"\sqrt{5+2\sqrt{6}}", True), (r"\pi", rounded, False)]
    before, wrong = mpmath.mp.dps, []

    def work():
        for _ in range(60):
            wrong.extend((a, b) for a, b, expected in pairs if equal(a, b) != expected)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and mpmath.mp.dps == before


def test_the_verdict_does_not_depend_on_what_was_judged_before():
    """State kept between calls (precision, caches) leaks into the next verdict."""
    rows = [row for rows in CASES.values() for row in rows]
    random.Random(6).shuffle(rows)
    assert [row for row in rows if equal(row[1], row[0]) != row[2]] == []


def test_doctests():
    """The examples in the docstrings are what the functions do."""
    assert doctest.testmod(equivalence).failed == 0

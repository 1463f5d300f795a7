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
        (
            r"\sqrt{2}",
            "1.4142135623730950488016887242096980785696718753769480731766797379907324784621",
            False,
            "rounded at 76 digits",
        ),
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
        (
            r"\log\left(\frac{2007}{2006}\right)",
            r"\log 2007 - \log 2006",
            True,
            "log of a quotient",
        ),
        (
            r"\left\lfloor\log _{2} n\right\rfloor+1",
            r"1+\lfloor \log_2(n) \rfloor",
            True,
            "inside a floor",
        ),
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
        (
            r"\pi",
            "3.14159265358979323846264338327950288419716939937510582097494459",
            False,
            "rounded at 62 digits",
        ),
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
        (
            r"\frac{2x-7}{(x+1)(x-2)}",
            r"\frac{3}{x+1}+\frac{1}{x-2}",
            False,
            "partial fractions, sign",
        ),
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
        (
            r"\lfloor\frac{2 n-1}{5}\rfloor",
            r"\left\lfloor \frac{2n-1}{5} \right\rfloor",
            True,
            "sizes",
        ),
        (r"\lceil n / 2\rceil+1", r"\lfloor (n+1)/2 \rfloor + 1", True, "for whole numbers"),
        (r"m n-\lfloor m / 2\rfloor", r"mn - \lceil m/2 \rceil", False, "another rounding"),
        ("x-1", r"\lfloor x \rfloor - 1", False, "x need not be whole"),
        ("(-1)^n", r"\cos(\pi n)", True, "for whole numbers"),
        ("x+10^{-80}", "x", False, "a tiny coefficient"),
        ("xy", "yx", True, "a product commutes"),
        ("x_1+x_2", "x_2+x_1", True, "subscripts"),
        ("x_1", "x_2", False, "another subscript"),
        (
            r"\frac{n(n+1)}{2}",
            r"\sum_{k=1}^{n} k",
            False,
            "a sum with a symbolic bound is not judged",
        ),
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
        (
            r"\left( 3, \frac{\pi}{2} \right)",
            r"\left(\frac{\pi}{2},3\right)",
            False,
            "order matters",
        ),
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
        (
            r"\frac{3 \pm \sqrt{21}}{2}",
            r"\frac{3 - \sqrt{21}}{2},\frac{3 + \sqrt{21}}{2}",
            True,
            "inside a fraction",
        ),
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
        (
            r"(-\infty, 2) \cup (3, \infty)",
            r"(-\infty, 2) \cap (3, \infty)",
            False,
            "an intersection",
        ),
        (r"(-\infty, 2) \cup (3, \infty)", r"(-\infty, 2] \cup [3, \infty)", False, "the ends"),
        (r"(-\infty, 2) \cup (3, \infty)", "(2,3)", False, "the complement"),
        (
            r"(-\infty, 2) \cup (3, \infty)",
            r"x<2 \text{ or } x>3",
            True,
            "inequalities joined by or",
        ),
        (r"(-\infty, 2) \cup (3, \infty)", r"x<2 \text{ and } x>3", False, "nothing lies in both"),
        (
            r"(-\infty, 2) \cup (3, \infty)",
            r"\mathbb{R} \setminus [2,3]",
            True,
            "the complement taken away",
        ),
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
        (
            r"\begin{pmatrix} -7 \\ 16 \\ 5 \end{pmatrix}",
            r"\begin{bmatrix}-7\\16\\5\end{bmatrix}",
            True,
            "other brackets",
        ),
        (r"\begin{pmatrix} -7 \\ 16 \\ 5 \end{pmatrix}", "(-7,16,5)", True, "a vector as a tuple"),
        (r"\begin{pmatrix} -7 \\ 16 \\ 5 \end{pmatrix}", "(16,-7,5)", False, "order"),
        (
            r"\begin{pmatrix} -7 \\ 16 \\ 5 \end{pmatrix}",
            r"\begin{pmatrix} -7 & 16 & 5 \end{pmatrix}",
            False,
            "a row is not a column",
        ),
        (
            r"\begin{pmatrix} -7 \\ 16 \\ 5 \end{pmatrix}",
            r"\begin{pmatrix} -7 & 16 & 5 \end{pmatrix}^T",
            True,
            "transposed",
        ),
        (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", "(1,2)^T", True, "a transposed tuple"),
        (
            r"\begin{pmatrix} 16/49 \\ 48/49 \end{pmatrix}",
            r"\frac{16}{49}\begin{pmatrix} 1 \\ 3 \end{pmatrix}",
            True,
            "a factor",
        ),
        (
            r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}",
            r"\begin{pmatrix} 1 & 3 \\ 2 & 4 \end{pmatrix}",
            False,
            "transposed",
        ),
        (
            r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}",
            r"\left[\begin{array}{cc} 1 & 2 \\ 3 & 4 \end{array}\right]",
            True,
            "an array",
        ),
        (
            r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}",
            r"\begin{pmatrix} 1 & 2 \\ 3 & 5 \end{pmatrix}",
            False,
            "an entry",
        ),
        (
            r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}",
            r"\begin{vmatrix} 1 & 2 \\ 3 & 4 \end{vmatrix}",
            False,
            "a determinant",
        ),
        (
            r"\begin{pmatrix} 1 & -1 \\ 1 & \phantom -1 \end{pmatrix}",
            r"\begin{pmatrix} 1 & -1 \\ 1 & 1 \end{pmatrix}",
            True,
            "a phantom",
        ),
        (
            r"\begin{pmatrix} -1/3 \\ 2/3 \end{pmatrix}",
            r"\begin{pmatrix} -\frac{1}{3} \\[4pt] \frac{2}{3} \end{pmatrix}",
            True,
            "row spacing",
        ),
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
        (
            r"\text{Softball, Kickball, Picnic}",
            "Softball, Kickball, Picnic",
            True,
            "a list of words",
        ),
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


# A rule -> (gold, answer) that it makes equal, and that it must not; in both directions.
RULES = {
    "what is left of the last equality sign may say what was asked, but an answer is solved": {
        True: [
            ("12", r"\gcd(24,36)=12"), ("12", r"\text{lcm}(4,6) = 12"),
            (r"\frac{1}{2}", r"P(A)=\frac12"), (r"\frac{1}{2}", r"P(A|B)=\frac12"),
            (r"\frac{1}{2}", r"\Pr(A)=\frac12"), (r"\frac{1}{2}", r"\mathbb{P}(A)=\frac12"),
            (r"\frac{1}{2}", r"\mathbb{E}[X]=\frac12"), (r"\frac{1}{2}", r"E(X)=\frac12"),
            ("12", r"S_{\triangle ABC} = 12"), ("12", "[ABC] = 12"), ("12", r"\text{Area}=12"),
            ("12", r"\text{Area of } \triangle ABC = 12"), ("12", r"A_{\text{total}}=12"),
            ("12", r"S_{\triangle} = 12"), ("45", "C(10,2) = 45"), ("45", r"{10 \choose 2} = 45"),
            ("45", r"\binom{10}{2}=45"), ("45", "_{10}C_2 = 45"), ("720", "6! = 720"),
            ("144", r"6 \cdot 4! = 144"), ("45", "45 = C(10,2)"),
            ("106", r"\angle ABC = 106^\circ"), (r"106^\circ", r"m\angle AHB = 106"),
            (r"\sqrt{51}", r"\overline{DE} = \sqrt{51}"), (r"\sqrt{51}", r"DE = \sqrt{51}"),
            ("5", r"\|v\| = 5"), ("10", "f(3)=10"), ("10", "f(f(1)) = 10"),
            ("10", "f^{-1}(3) = 10"), ("10", "a_{5}=10"), ("10", "a_5 = 10"),
            ("10", "x_1 x_2 = 10"), ("10", r"\sum_{k=1}^{4} k = 10"), ("10", r"\sum_{n} a_n = 10"),
            ("2", r"\lim_{x \to 0} f(x) = 2"), ("2", r"\int_0^1 f = 2"),
            ("2", r"\int_0^2 1 \, dx = 2"), ("2", r"\det A = 2"), ("2", r"\det(A) = 2"),
            ("2", r"\operatorname{tr}(A)=2"), ("2", r"\max f(x) = 2"), ("2", r"f_{\max} = 2"),
            ("2", r"\min = 2"), ("2", "n(A)=2"), ("7", "ab = 7"), ("7", "abc=7"),
            ("7", r"\log_2 8 + 4 = 7"), ("113", r"\text{the sum is } 113"),
            ("113", r"\text{Total} = 113"), ("113", "N = 113"), ("18", r"\text{The answer} = 18"),
            ("x=2", "2=x"), ("x=2", "x=2"), ("y=2x+3", "y-2x-3=0"), ("y=2x+3", "y=2x+3+0"),
            ("x=y", "y=x"), ("x=2", r"x=\frac42"), ("n=k+4", "n-k=4"), ("x=a+b", "x-a=b"),
        ],
        False: [
            ("113", "m+n=114"), ("18", "2x = 18"), ("18", "x+4=18"), ("18", "x^2=18"),
            ("11", r"\gcd(24,36)=11"), ("44", "C(10,2) = 44"), ("44", r"\binom{10}{2}=44"),
            ("720", "6! = 721"), ("18", "18 = 2x"), ("113", "m+n"), ("113", "m-n=113-1"),
            (r"\frac{5}{13}", r"w=\frac{5}{12}"), ("113", "m+n=113 or 114"),
            ("113", r"m+n \ne 113"), ("113", "m+n > 113"), ("113", "m+n=112=113"),
            ("113", r"\text{not } m+n=113"), ("x=2", "x+4=3x"), ("x=2", "2x=4"), ("x=2", "x-2=0"),
            ("x=2", "x=4-x"), ("x=2", "3x=x+4"), ("x=2", "x^2=4"), ("2", "x=4-x"), ("2", "x+4=3x"),
            ("x=2", "x+x=2+2"), ("x = 4", "2x+4=3x"), ("x=5", "2x+3=13"),
            ("x=2", "5^{x+4}=5^{3x}"), ("x=2, y=3", "x+y=5"), ("n=k+4", "n=k+5"), ("x=1", "x=x"),
            ("3", r"x \equiv 3 \pmod 7"), ("3", r"3 \pmod 7"),
        ],
    },
    "numerals: nothing between digits vanishes, words and scales are numbers": {
        True: [
            ("58,500", "58500"), ("58,500", "58{,}500"), ("58,500", r"58\,500"),
            ("58,500", "58 500"), ("58,500", r"58,\!500"), ("70,110", "110, 70"),
            ("70,110", r"110 \text{ and } 70"), ("1234", "1,234"), ("58500", "58,500"),
            ("18", r"1\!8"), ("20000000", "20{,}000{,}000"), (r"20,\!000,\!000", "20 million"),
            (r"20,\!000,\!000", r"20 \text{ million}"), (r"20,\!000,\!000", r"2 \times 10^7"),
            (r"20,\!000,\!000", r"\text{20 million}"), ("2500000", "2.5 million"),
            ("3000", "3 thousand"), ("3000", r"\$3 \text{ thousand}"),
            ("5000000000", r"5 \text{ billion}"), ("1500", r"15 \text{ hundred}"),
            ("25", "twenty-five"), ("25", r"\text{twenty-five}"), ("24", "twenty-four"),
            ("500", r"\text{five hundred}"), ("4", r"\text{four}"), ("4", "Four"),
            ("0", r"\text{zero}"), ("2/3", r"\text{two thirds}"), ("1/2", r"\text{one half}"),
            ("3/4", r"\text{three fourths}"),
        ],
        False: [
            ("56", r"5\text{, }6"), ("56", r"5\text{ }6"), ("56", "5, 6"), ("56", "5 6"),
            ("56", r"5\quad 6"), ("56", r"5\,6"), ("58,500", "58; 500"), ("58,500", "58 and 500"),
            ("58,500", r"58 \text{ and } 500"), ("58,500", r"58 \text{ or } 500"),
            ("70,110", "110,70"), ("113", r"1\text{, }1\text{, }3"), ("113", r"1\text{ and }13"),
            ("113", "11 3"), ("12", r"1\text{ or }2"), ("12", r"1\text{-}2"), ("12", "1:2"),
            ("12", "1;2"), ("12", "1/2"), ("1234", "12,34"), ("1234", "1, 234"),
            ("58,500", "58.500"), ("18", "1{}8"), ("18", r"1 \cdot 8"),
            ("20", r"20 \text{ million}"), ("25", r"\text{twenty five}"), ("16", "twenty-four"),
        ],
    },
    "a word that scales, negates or hedges is no unit": {
        True: [
            ("324", r"18 \text{ squared}"), ("36", r"18 \text{ times } 2"),
            ("19", r"18 \text{ plus } 1"), ("-18", r"\text{minus } 18"),
            ("-18", r"\text{negative } 18"), ("18", r"18 \text{ percent}"), ("18", "18_{10}"),
            ("18", r"x \text{ is } 18"), ("18", r"\text{There are } 18 \text{ ways}"),
            ("18", r"\text{It is } 18"), ("18", r"18 \text{ more}"),
            ("18", r"18 \text{ more apples}"), ("18", r"18 \text{ in all}"),
            ("18", r"18 \text{ in total}"), ("18", r"18 \text{ possible values}"),
            ("18", r"18 \text{ different ways}"), ("18", r"18 \text{ only}"),
            ("18", r"18 \text{ points}"), ("18", r"18 \text{ remaining}"),
            ("18", r"18 \text{ left}"), ("18", r"18 \text{ (total)}"),
            ("18", r"\text{suppose } x=18"),
        ],
        False: [
            ("18", r"18 \text{ dozens}"), ("18", r"18 \text{ dozen}"),
            ("18", r"18 \text{ trillion}"), ("18", r"18 \text{ million}"),
            ("18", r"18 \text{ thousand}"), ("18", r"18 \text{ hundred}"),
            ("18", r"18 \text{ tens}"), ("18", r"18 \text{ crore}"), ("18", r"18 \text{ lakh}"),
            ("18", r"18 \text{ excluded}"), ("18", r"18 \text{ halves}"),
            ("18", r"18 \text{ thirds}"), ("18", r"18 \text{ score}"), ("18", r"18 \text{ gross}"),
            ("18", r"18 \text{ thousandths}"), ("18", r"18 \text{ billion}"),
            ("18", r"18 \text{ quadrillion}"), ("18", r"18 \text{ percent_not}"),
            ("18", r"18 \text{ impossible}"), ("18", r"18 \text{ wrong}"),
            ("18", r"18 \text{ incorrect}"), ("18", r"18 \text{ false}"),
            ("18", r"18 \text{ invalid}"), ("18", r"18 \text{ rejected}"),
            ("18", r"18 \text{ discarded}"), ("18", r"18 \text{ maybe}"),
            ("18", r"18 \text{ perhaps}"), ("18", r"18 \text{ probably}"),
            ("18", r"18 \text{ approximately}"), ("18", r"18 \text{ roughly}"),
            ("18", r"18 \text{ approx}"), ("18", r"18 \text{ k}"), ("18", r"18 \text{ or}"),
            ("18", r"18 \text{ not}"), ("18", r"18 \text{ only±1}"),
            ("18", r"18 \text{ is excluded}"), ("18", r"\text{not } 18"),
            ("18", r"18 \text{ cannot be right}"), ("18", r"18 \text{ can't be right}"),
            ("18", r"18 \text{ isn't it}"), ("18", r"18 \text{ is not the answer}"),
            ("18", r"\text{anything but } 18"), ("18", r"\text{all except } 18"),
            ("18", r"\text{about } 18"), ("18", r"\text{at least } 18"),
            ("18", r"\text{at most } 18"), ("18", r"\text{more than } 18"),
            ("18", r"\text{less than } 18"), ("18", r"\text{no more than } 18"),
            ("18", r"\text{up to } 18"), ("18", r"18 \text{ or so}"), ("18", r"18\text{-ish}"),
            ("18", r"18 \text{ plus or minus } 1"), ("18", r"18 \text{ (or 19)}"),
            ("18", "18 (19)"), ("18", r"18 \text{ (19 if counted twice)}"),
            ("18", r"18, \text{ not } 19"), ("18", r"\text{either } 18 \text{ or } 19"),
            ("18", r"18 \text{ or } 19"), ("18", "18/19"), ("18", r"18 \text{ and/or } 17"),
            ("18", r"18 \text{ vs } 19"), ("18", r"\text{none}"),
            ("18", r"\text{between 17 and 19}"), ("18", r"\text{half of } 18"),
            ("18", r"\text{twice } 18"), ("18", r"18 \text{ squared}"),
            ("18", r"18 \text{ times } 2"), ("18", r"18 \text{ plus } 1"),
            ("18", r"18 \text{ minus } 1"), ("18", r"\text{minus } 18"),
            ("18", r"18\text{ per mille}"), ("18", r"18 \text{万}"), ("18", r"18 \text{亿}"),
            ("18", r"18 \text{百}"), ("18", r"\text{不是 }18"), ("18", r"18 \text{ 不对}"),
            ("18", r"18 \text{ тысяч}"), ("18", r"18 \text{ млн}"), ("18", "18k"), ("18", "18K"),
            ("18", "18M"), ("18", "18 bn"), ("18", r"18 \text{K}"), ("18", r"18 \text{ kilo}"),
            ("18", r"\text{unlikely to be } 18"), ("18", "18?"), ("18", r"\neg 18"),
            ("18", r"\lnot 18"), ("18", r"\not= 18"), ("18", r"\ne 18"), ("18", r"\overline{18}"),
            ("18", r"\cancel{18}"), ("18", r"\sout{18}"), ("18", "18^{-1}"), ("18", "18'"),
            ("18", "18_9"), ("18", r"18 \text{ is wrong}"), ("18", r"18 \text{ is bogus}"),
            ("18", r"18 \text{ was my first guess}"), ("18", r"\text{wrong answer} = 18"),
            ("18", r"18 \text{ or more}"), ("18", r"18 \text{ and up}"),
            ("18", r"\text{only } 18"), ("56", r"5 \text{ }6"), ("56", r"5 \text{ } 6"),
            ("56", "5  6"), ("56", r"5\ \ 6"), ("56", "5{ }6"), ("56", r"5\hspace{1cm}6"),
            ("56", r"5\phantom{0}6"), ("18", r"18 \text{ recurring}"),
            ("18", r"18 \text{ factorial}"), ("18", r"18 \text{ (the wrong one)}"),
            ("18", r"18 \text{ (eighteen)}"), ("18", r"\text{if } x = 18"),
            ("18", r"x = 18 \text{ if } y = 2"), ("18", r"\text{the probability is not } 18"),
        ],
    },
    "two units must agree, compound ones too; other nouns count for nothing": {
        True: [
            ("540", r"\text{540 meters}"), ("540", r"\mathrm{540\ meters}"),
            ("540", r"540\,\mathrm{m}"), ("540", r"540\,\text{m}"),
            ("42", r"\text{The perimeter is } 42 \text{ inches}"),
            ("42", r"\text{The perimeter is 42 inches.}"), ("42", r"\text{Perimeter: } 42"),
            ("42", r"\text{Perimeter: 42 in}"), ("84", r"84^\circ F"),
            ("84", r"84^{\circ}\text{F}"), ("84", r"84^\circ \mathrm{F}"), ("84", "84°F"),
            ("84", "84 °F"), ("84", r"84^\circ C"), ("84", r"84 \text{ degrees Fahrenheit}"),
            ("84", r"84 \text{ F}"), (r"-5^\circ", r"-5^\circ C"),
            ("84", r"84^\circ\ \text{Fahrenheit}"), ("18.90", "USD 18.90"),
            ("18.90", r"\text{USD } 18.90"), ("18.90", "18.90 USD"),
            ("18.90", r"18.90 \text{ USD}"), ("18.90", r"US\$18.90"), (r"\$18.90", "USD 18.90"),
            ("2", "€2"), ("2", "2€"), (r"2 \text{ euros}", "€2"), ("500", "Rs. 500"),
            ("500", r"\text{Rs. }500"), ("500", "₹500"), ("5", r"5 \text{ pounds}"),
            (r"45\text{ mph}", r"45 \text{ miles per hour}"),
            (r"45\text{ mph}", r"45 \text{ mi/h}"), (r"45\text{ mph}", "45"),
            (r"45\text{ mph}", r"45 \text{ miles/hour}"),
            (r"5 \text{ square miles}", r"5 \text{ mi}^2"),
            (r"5 \text{ square miles}", r"5 \text{ miles}^2"),
            (r"5 \text{ square miles}", r"5 \text{ sq mi}"),
            (r"5 \text{ cubic feet}", r"5 \text{ ft}^3"),
            (r"5 \text{ m/s}^2", r"5 \text{ m s}^{-2}"),
            (r"5 \text{ m/s}^2", r"5 \text{ meters per second squared}"),
            (r"15\mbox{ cm}^2", "15cm^2"), ("15", "15cm^2"), ("15", r"15\text{ cm squared}"),
            (r"15\mbox{ cm}^2", r"15\text{ cm squared}"),
            (r"15\mbox{ cm}^2", r"15\text{ square cm}"), (r"15\mbox{ cm}^2", r"15\text{ sq. cm}"),
            (r"15\mbox{ cm}^2", r"15~\text{cm}^{2}"),
            (r"15\mbox{ cm}^2", r"15 \text{ square units}"), ("3", "3 cm"),
            (r"3 \text{ cm}, 4 \text{ cm}", "3, 4"),
            (r"3 \text{ cm}, 4 \text{ cm}", r"3 \text{ and } 4 \text{ cm}"),
            ("3, 4", r"3 \text{ cm}, 4 \text{ cm}"), ("7", r"3 \text{ cm} + 4 \text{ cm}"),
            ("18", r"18 \text{美元}"), ("8", r"8 \text{ см}"), ("8", r"8 \text{ см}^2"),
            (r"8 \text{ cm}", r"8 \text{ см}"), ("18", r"18 \text{元}"), ("18", r"18 \text{ 厘米}"),
            ("18", r"18 \text{个}"), ("18", r"18 \text{ рублей}"), ("18", r"18 \text{ dólares}"),
            ("18", "18 美元"), ("18", r"18 \text{ 平方厘米}"), ("18", r"18 \text{ 種}"),
            ("18", r"18\text{ euros}"), ("18", r"18 \text{ Äpfel}"), ("18", r"18 \text{ 円}"),
            ("18", r"18 \text{ 개}"), ("15", "15 wins"), ("3", r"3 \quad \text{bolts}"),
            ("18", r"18 \text{ eggs per day}"),
            ("18", r"18 \text{ dollars every day at the farmers' market}"),
            ("5", r"5 \text{ (hours)}"), ("5", r"5 \text{ hours}"), ("5", "5 hours"),
            ("5", "5hours"), ("5", r"5\text{h}"), ("12", r"12 \text{ apples}"),
            ("3", r"3 \text{ times}"), ("2", r"\text{2nd}"),
            (r"40\text{ min}", r"40 \text{ minutes}"), ("60", r"60\%"), ("0.15", r"15\%"),
            ("62.5%", r"62\frac12\%"), ("5", r"5 \text{ V}"), ("9.8", r"9.8 \text{ m/s}^2"),
            ("50", r"50 \text{ kg} \cdot \text{m/s}"), (r"\text{two lines}", "two lines"),
            ("18", r"\$ 18 \text{ dollars}"), ("18", r"\$18"), ("0.5", r"\$0.50"),
            ("32348", r"32,348\$"), ("1.5", r"1.5 \text{ L}"), (r"9\text{ a.m.}", r"9\text{ AM}"),
        ],
        False: [
            ("540m", "540"), (r"84^\circ F", r"84^\circ C"), (r"\$18.90", "EUR 18.90"),
            (r"2 \text{ euros}", r"\$2"), (r"2 \text{ euros}", r"2 \text{ yen}"),
            (r"2 \text{ euros}", "£2"), (r"45\text{ mph}", r"45 \text{ km/h}"),
            (r"45\text{ mph}", r"45 \text{ kph}"), (r"45\text{ mph}", r"45 \text{ m/s}"),
            (r"45\text{ mph}", r"45 \text{ miles}"), (r"5 \text{ acres}", r"5 \text{ hectares}"),
            (r"5 \text{ ounces}", r"5 \text{ pounds}"), (r"5 \text{ pints}", r"5 \text{ quarts}"),
            (r"5 \text{ square miles}", r"5 \text{ square kilometers}"),
            (r"5 \text{ square miles}", r"5 \text{ miles}"),
            (r"5 \text{ cubic feet}", r"5 \text{ feet}^2"), (r"5 \text{ m/s}^2", r"5 \text{ m/s}"),
            (r"15\mbox{ cm}^2", r"15\text{ cm}"), (r"15\mbox{ cm}^2", r"15 \text{ square inches}"),
            ("3, 4", r"3 \text{ cm}, 4 \text{ m}"), ("5", r"5 \text{ feet } 3 \text{ inches}"),
            (r"8 \text{ m}", r"8 \text{ см}"), ("5", "5 h"),
            (r"40\text{ min}", r"40 \text{ seconds}"),
            (r"54\text{ gallons}", r"54 \text{ quarts}"),
            (r"25 \, \text{km}", r"25 \text{ miles}"), (r"25 \, \text{km}", r"25 \text{ km}^2"),
            ("0.15", r"0.15\%"), ("7", r"70\%"), ("5", r"5\ \Omega"), ("two lines", "2"),
            (r"\text{two lines}", r"\text{two points}"), (r"\text{two lines}", r"\text{one line}"),
            (r"\text{two lines}", r"2 \text{ lines}"),
            ("5", r"5\text{ dollars and } 90 \text{ cents}"),
            (r"1.5 \text{ L}", r"1.5 \text{ mL}"), (r"9\text{ a.m.}", r"9\text{ PM}"),
        ],
    },
    "spellings of TeX, markdown and other scripts": {
        True: [
            ("42", r"42\tag{1}"), ("42", r"42 \blacksquare"), ("42", r"42 \checkmark"),
            ("42", "42 ✓"), ("42", "42 ✅"), ("42", "42 ∎"), ("42", "42 □"),
            ("42", r"\colorbox{yellow}{42}"), ("42", r"\colorbox{yellow}{$42$}"),
            ("42", r"{\color{red} 42}"), ("42", r"\color{red}{42}"),
            ("42", r"\textcolor{blue}{42}"), ("42", r"\underline{42}"), ("42", r"\mathbf{42}"),
            ("42", r"\boldsymbol{42}"), ("42", r"\bm{42}"), ("42", r"\text{42}"),
            ("42", r"\textbf{42}"), ("42", r"\mathrm{42}"), ("42", r"\mathit{42}"),
            ("42", r"\mathsf{42}"), ("42", r"\mathtt{42}"), ("42", r"\large 42"),
            ("42", r"{\Large 42}"), ("42", r"\displaystyle{42}"), ("42", r"\hspace{2mm}42"),
            ("42", r"42\;"), ("42", r"\ 42\ "), ("42", r"\[42\]"), ("42", r"\(42\)"),
            ("42", "$$42$$"), ("42", "**42**"), ("42", "*42*"), ("42", "`42`"), ("42", "_42_"),
            ("42", '"42"'), ("42", "“42”"), ("42", "'42'"), ("42", r"\emph{42}"),
            ("42", r"\fbox{42}"), ("42", r"\boxed{\boxed{42}}"), ("42", r"\ensuremath{42}"),
            ("42", r"\mbox{42}"), ("42", "= 42"), ("42", "42."), ("42", "42,"),
            ("42", r"42\label{eq}"), ("42", r"\therefore 42"), ("42", r"42\text{.}"),
            ("42", r"42 \text{ .}"), (r"\text{Evelyn}", '"Evelyn"'),
            (r"\text{Evelyn}", "“Evelyn”"), (r"\text{Evelyn}", "``Evelyn''"),
            (r"\text{Evelyn}", r"\text{``Evelyn''}"), (r"\text{Evelyn}", r"\textit{Evelyn}"),
            (r"\text{Evelyn}", r"\text{\textbf{Evelyn}}"),
            (r"\text{Evelyn}", r"\text{The answer is Evelyn}"),
            (r"\frac{14}{3}", r"\mathbf{\frac{14}{3}}"), (r"\frac{14}{3}", r"{14 \over 3}"),
            (r"\frac{14}{3}", r"14 \over 3"), (r"\frac{14}{3}", r"\sfrac{14}{3}"),
            (r"\frac{14}{3}", r"\nicefrac{14}{3}"), (r"\frac{14}{3}", r"\tfrac{14}{3}"),
            (r"\frac{14}{3}", r"\cfrac{14}{3}"), (r"\frac{14}{3}", r"\frac{\text{14}}{3}"),
            (r"\frac{a}{b}", r"{a \over b}"), ("x+1", r"{x^2-1 \over x-1}"),
            ("10", r"5 \choose 2"), ("10", r"{5 \choose 2}"), ("10", r"{5 \choose 3}"),
            (r"\binom{2n}{n}", r"{2n \choose n}"), (r"\binom{2n}{n}", "C(2n,n)"),
            (r"\frac{1}{3}", r"0.\bar{3}"), (r"\frac{1}{3}", r"0.\dot{3}"),
            (r"\frac{1}{3}", r"0.\dot3"), (r"\frac{1}{3}", r"0.\bar3"),
            (r"\frac{1}{7}", r"0.\dot{1}4285\dot{7}"), (r"\frac{1}{7}", r"0.\overline{142857}"),
            (r"\frac{5}{6}", r"0.8\bar{3}"), (r"\frac{5}{6}", r"0.8\dot{3}"), ("3", r"2.\bar{9}"),
            ("1", r"0.\overline{9}"), (r"\frac{1}{3}", r".\overline{3}"),
            (r"-\frac13", r"-0.\overline{3}"), (r"\frac{1}{3}", r"0.\overline{33}"),
            (r"\frac{41}{333}", r"0.\dot{1}2\dot{3}"), ("4210_{5}", "4210_{(5)}"),
            ("4210_{5}", "(4210)_5"), ("4210_{5}", r"4210\text{ in base }5"),
            ("4210_{5}", r"4210 \text{ base } 5"), ("0.0011_{2}", "(0.0011)_2"), ("4210_5", "555"),
            ("555", "4210_5"), ("(3,4)", r"\left(3,\,4\right)"), ("(3,4)", r"\big(3,4\big)"),
            ("(3,4)", "(3;4)"), ("(3,4)", "(3, 4)^T"), ("6,8,10", r"6, 8, \text{ and } 10"),
        ],
        False: [
            ("42", r"\square"), ("42", r"\blacksquare"), ("42", r"\quad"), ("42", r"\ldots"),
            (r"\text{Evelyn}", r"\text{Not Evelyn}"), (r"\frac{14}{3}", r"{3 \over 14}"),
            ("10", r"{2 \choose 5}"), (r"\binom{2n}{n}", "C_{2n}^{n}"), (r"\frac{1}{3}", "0.3"),
            (r"\frac{1}{3}", r"0.33\ldots"), (r"\frac{1}{3}", r"0.\bar{4}"),
            ("4210_{5}", r"4210_{\text{five}}"), ("4210_{5}", "4210_{10}"), ("4210_{5}", "4210"),
        ],
    },
    "the variable of a function is bound, and a condition that says nothing is dropped": {
        True: [
            ("f(x)=2x", "f(t)=2t"), ("f(x)=2x", "f(y)=2y"),
            ("f(x)=2x", r"f(x) = 2x \text{ for all } x"),
            ("f(x)=2x", r"f(x) = 2x \text{ for all real } x"),
            ("f(x)=2x", r"f(x)=2x, \forall x \in \mathbb{R}"),
            ("f(x)=2x", r"f(x)=2x \quad \forall x"), ("f(x)=2x", r"f(x)=2x, x \in \mathbb{R}"),
            ("f(x)=2x", r"f(x)=2x \text{ for every real number } x"),
            ("f(x)=2x", r"2x \text{ for all } x"), ("f(x)=2x", r"f(x)=2x \text{ for some } x"),
            ("f(x)=2x", "y=2x"), ("f(x)=2x", "f=2x"),
            ("f(x)=-1,f(x)=x+1", r"f \equiv -1 \text{ or } f(x)=x+1"),
            ("f(x)=-1,f(x)=x+1", r"f(x)=x+1 \text{ and } f(x)=-1"),
            ("f(x)=-1,f(x)=x+1", r"f(x)=-1 \text{ or } x+1"),
            ("f(x)=-1,f(x)=x+1", "f(t)=-1, f(t)=t+1"), ("f(n)=n^2", "f(x)=x^2"),
            ("f(n)=n^2", "f(n)=n^{2}"), ("p(x)=(x-1)(x-2)/6", "p(t)=(t-1)(t-2)/6"),
            ("p(x)=(x-1)(x-2)/6", r"\frac{x^2-3x+2}{6}"), ("P(x)=x^2", "P(y)=y^2"),
            ("f(x)=c", "f(x)=c"), ("f(x)=1", r"f(x)=1 \text{ for all } x"),
            ("f(x)=1", r"f \equiv 1"),
            (r"N(n)=\left\lfloor\frac{2 n}{3}\right\rfloor+1", r"\lfloor 2n/3 \rfloor + 1"),
            (r"N(n)=\left\lfloor\frac{2 n}{3}\right\rfloor+1", r"N = \lfloor 2n/3 \rfloor + 1"),
            (r"N(n)=\left\lfloor\frac{2 n}{3}\right\rfloor+1", r"N(k) = \lfloor 2k/3 \rfloor + 1"),
            ("f(z)=z", "f(x)=x"), ("f(x)=x+22", "f(x)=22+x"), ("f(n)=n, g(n)=1", "g(n)=1, f(n)=n"),
            ("g(x)=x^2-2x+2", "g(x)=(x-1)^2+1"), (r"-80\leq g(x)\leq 82", r"-80 \leq y \leq 82"),
            (r"-80\leq g(x)\leq 82", "[-80,82]"), (r"-80\leq g(x)\leq 82", r"y \in [-80,82]"),
            (r"d=\frac{1+\sqrt{1+8 n}}{2}", r"d = \frac12(1+\sqrt{8n+1})"),
            (r"d=\frac{1+\sqrt{1+8 n}}{2}", r"\frac{1+\sqrt{8n+1}}{2}"),
        ],
        False: [
            ("f(x)=2x", "f(t)=2x"), ("f(x)=2x", r"f(x)=2x \text{ for } x>0"),
            ("f(x)=2x", r"f(x)=3x \text{ for all } x"), ("f(x)=2x", "g(x)=2x"),
            ("f(x)=2x", r"f(x)=2x \text{ or } f(x)=0"), ("f(x)=2x", "f(x)=2x, f(x)=0"),
            ("f(x)=2x", r"f: x \mapsto 2x"), ("f(x)=-1,f(x)=x+1", "f(x)=-1"),
            ("f(n)=n^2", "f(n)=2n"), ("f(n)=n, g(n)=1", "f(n)=1, g(n)=n"), ("f(2)=3", "f(3)=3"),
            ("2k+2", "2n+2"), ("2k+2", "2x+2"),
        ],
    },
    "named coordinates in any order, signs that go together, lists": {
        True: [
            ("(2,3)", "x=2, y=3"), ("(2,3)", "y=3, x=2"), ("(2,3)", r"x=2 \text{ and } y=3"),
            ("(2,3)", r"y=3 \text{ and } x=2"),
            ("(2,3)", r"\begin{cases} x = 2 \\ y = 3 \end{cases}"),
            ("(2,3)", r"\begin{cases} y = 3 \\ x = 2 \end{cases}"),
            ("(2,3)", r"\begin{cases} x = 2, \\ y = 3. \end{cases}"),
            ("(2,3)", r"\begin{cases} x = 2 , \\ y = 3 \end{cases}"),
            ("(2,3)", r"\left\{\begin{array}{l} x=2 \\ y=3 \end{array}\right."),
            ("(2,3)", r"\begin{aligned} x &= 2 \\ y &= 3 \end{aligned}"), ("(2,3)", "(x,y)=(2,3)"),
            ("(x,y)=(2,3)", "x=2,y=3"), ("(x,y)=(2,3)", "y=3,x=2"), ("(x,y)=(2,3)", "(2,3)"),
            ("(2,3,4)", "a=2,b=3,c=4"), ("(2,3,4)", "c=4,a=2,b=3"), ("(2,3)", "x=2; y=3"),
            (r"(3,\pi/2)", r"r=3,\theta=\pi/2"),
            (r"(22+8\sqrt6,22-8\sqrt6),(22-8\sqrt6,22+8\sqrt6)",
             r"(22 \pm 8\sqrt6, 22 \mp 8\sqrt6)"),
            ("(1,-1),(-1,1)", r"(\pm 1, \mp 1)"), ("(1,-1),(-1,1)", r"(x,y)=(\pm 1, \mp 1)"),
            ("(0,2),(0,-2)", r"(0,\pm2)"), (r"1+\sqrt2,1-\sqrt2", r"1\mp\sqrt2"),
            ("(1,2),(3,4)", r"(1,2) \text{ and } (3,4)"),
            ("(1,2),(3,4)", r"(1,2) \text{ or } (3,4)"), ("(1,2),(3,4)", r"\{(1,2),(3,4)\}"),
            ("(1,2),(3,4)", "(x,y)=(1,2),(3,4)"), ("(1,2),(3,4)", r"(x,y) \in \{(1,2),(3,4)\}"),
            ("(1,2),(3,4)", "(1,2);(3,4)"), ("2,3", "x=2,3"), ("2,3", r"x=2 \text{ or } x=3"),
            ("2,3", r"x=2 \vee x=3"), ("2,3", "x_1=2, x_2=3"), ("2,3", r"x \in \{2,3\}"),
            ("2,3", r"\{2;3\}"), ("2,3", r"2 \text{ or } 3"), ("2,3", r"2 \lor 3"),
            ("2,3", "x=2, y=3"), ("2,3", r"2\text{, }3"),
        ],
        False: [
            ("(2,3)", "x=3, y=2"), ("(2,3)", r"\begin{cases} x = 3 \\ y = 2 \end{cases}"),
            ("(2,3)", "(y,x)=(3,2)"), ("(x,y)=(2,3)", "x=3,y=2"), ("(2,3)", "2,3"),
            ("(2,3)", "x=2, x=3"), ("(2,3,4)", "a=2,b=4,c=3"),
            (r"(3,\pi/2)", r"\theta=\pi/2, r=3"), (r"(3,\pi/2)", r"r=\pi/2,\theta=3"),
            (r"(22+8\sqrt6,22-8\sqrt6),(22-8\sqrt6,22+8\sqrt6)",
             r"(22 \pm 8\sqrt6, 22 \pm 8\sqrt6)"),
            ("(1,1),(-1,-1)", r"(\pm 1, \mp 1)"), ("(1,2),(3,4)", "(1,2)"),
            ("(1,2),(3,4)", "(2,1),(4,3)"), ("(1,2)", r"\text{the point } (1,2)"),
            ("2,3", "2 & 3"), ("2,3", r"2 \text{ as well as } 3"), ("2,3", r"2 \text{ } 3"),
        ],
    },
    "intervals, inequalities and unions": {
        True: [
            (r"(-\infty,2) \cup (3,\infty)", r"(-\infty,2) \text{ or } (3,\infty)"),
            (r"(-\infty,2) \cup (3,\infty)", r"x<2 \text{ or } x>3"),
            (r"(-\infty,2) \cup (3,\infty)", r"x \in (-\infty,2) \cup (3,\infty)"),
            (r"(-\infty,2) \cup (3,\infty)", r"]-\infty,2[ \cup ]3,\infty["),
            (r"(-\infty,2) \cup (3,\infty)", r"(-\infty,2), (3,\infty)"),
            (r"(-\infty,2) \cup (3,\infty)", r"x \in (-\infty,2) \text{ or } x \in (3,\infty)"),
            (r"(-\infty,2) \cup (3,\infty)", r"x<2 \lor x>3"),
            (r"(-\infty,2) \cup (3,\infty)", r"\{x : x<2 \text{ or } x>3\}"),
            (r"(-\infty,2) \cup (3,\infty)", r"\{x \in \mathbb{R} \mid x<2 \text{ or } x>3\}"),
            (r"(-\infty, 0]", r"]-\infty, 0]"), (r"(-\infty, 0]", r"x \le 0"),
            (r"(-\infty, 0]", r"x \leq 0"), (r"(-\infty, 0]", r"0 \ge x"),
            (r"(-\infty, 0]", r"\{x \mid x \le 0\}"), ("[1,2)", "[1,2["), ("(1,2)", "]1,2["),
            ("(1,2]", "]1,2]"), ("[1,2)", "[1;2["), ("(1,2)", "1<x<2"),
            ("(1,2)", r"x>1 \text{ and } x<2"), ("(1,2)", "x>1, x<2"),
            ("(1,2)", r"1<x \text{ and } x<2"), (r"(0,9) \cup (9,36)", r"0<x<36, x \ne 9"),
            (r"(0,9) \cup (9,36)", r"0<x<36 \text{ and } x \ne 9"),
            (r"(0,9) \cup (9,36)", r"(0,36) \setminus \{9\}"),
            (r"(-\infty, 0) \cup\{1\}", r"c<0 \text{ or } c=1"),
            (r"k \geqslant 2", r"k \geq 2 \text{ (all integers)}"),
            (r"k \geqslant 2", r"k \ge 2, k \in \mathbb{Z}"),
            (r"k \geqslant 2", r"k \geq 2 (k \in \mathbb{N})"),
            (r"k \geqslant 2", r"k \geq 2 \text{ where } k \text{ is an integer}"),
            (r"k \geqslant 2", r"k \in [2,\infty)"), (r"k \geqslant 2", r"2 \le k"),
            (r"\mathbb{R}", r"\text{all real numbers}"), (r"\mathbb{R}", r"(-\infty,\infty)"),
            (r"\mathbb{R}", r"x \in \mathbb{R}"), (r"(2,\infty)", r"(2,+\infty)"),
            (r"(2,\infty)", "x>2"), (r"[2,\infty)", r"x \geqslant 2"),
        ],
        False: [
            (r"(-\infty,2) \cup (3,\infty)", r"(-\infty,3) \text{ or } (2,\infty)"),
            (r"(-\infty, 0]", r"]-\infty, 0["), (r"(-\infty, 0]", "x<0"),
            (r"(-\infty, 0) \cup\{1\}", r"c<0 \text{ or } c=2"),
            (r"(-\infty, 0) \cup\{1\}", r"c<0 \text{ and } c=1"), (r"k \geqslant 2", "k > 2"),
            (r"k \geqslant 2", r"\text{all integers } k \geq 2"), (r"(2,\infty)", r"(2,\infty]"),
        ],
    },
    "exact parts, positive points, near values, fuel": {
        True: [
            (r"3\sqrt{13}", r"3\sqrt{13} \approx 10.82"),
            (r"3\sqrt{13}", r"x = 3\sqrt{13} \approx 10.82"),
            (r"3\sqrt{13}", r"3\sqrt{13} \approx 10.82 \text{ cm}"),
            (r"288\pi", r"288\pi \approx 904.78 \text{ cubic units}"),
            (r"\frac{1}{3}", r"\frac13 \approx 0.333"), (r"\frac{1}{3}", r"\frac13 \approx 0.33"),
            (r"\frac{20000}{\pi}", r"\frac{20000}{\pi} \approx 6366"),
            (r"\ln\frac{a}{b}", r"\ln a - \ln b"), (r"\ln\frac{a}{b}", r"-\ln\frac{b}{a}"),
            (r"\log\frac{a}{b}", r"\log a-\log b"), (r"\ln(ab)", r"\ln a+\ln b"),
            (r"\ln x^2", r"2 \ln x"), ("|x|", r"\sqrt{x^2}"), (r"30p\sqrt p", r"30\sqrt{p^3}"),
            (r"30p\sqrt p", r"30|p|\sqrt p"), (r"10x\sqrt{21x}", r"10\sqrt{21x^3}"),
            (r"\sqrt{x-5}", "(x-5)^{1/2}"), (r"\sqrt{x-5}\sqrt{x+5}", r"\sqrt{x^2-25}"),
            (r"\sqrt{r^2-h^2}", r"\sqrt{(r-h)(r+h)}"), ("x^{3/2}", r"x\sqrt{x}"),
            ("x^{3/2}", r"\sqrt{x^3}"), ("x^{2/3}", r"\sqrt[3]{x^2}"), (r"\sqrt[3]{x^3}", "x"),
            ("2^{2x}", "4^x"), ("2^x 3^x", "6^x"), ("2", r"\lceil 1+10^{-50} \rceil"),
            ("3", r"\lfloor \log_2 8 \rfloor"), ("3", r"\lceil \log_2 8 \rceil"),
            ("3", r"\lfloor \pi \rfloor"), ("5", r"\lfloor \sqrt{25} \rfloor"), ("n2^n", "n 2^n"),
            ("n2^n", r"n \cdot 2^n"), ("(n-2)2^n+1", "n2^n-2^{n+1}+1"),
            ("n2^{n-1}", r"\frac{n 2^n}{2}"),
            (r"\frac{\log 2}{\log 2-\log 3}", r"\frac{1}{1-\log_2 3}"),
            (r"\frac{\log 2}{\log 2-\log 3}", r"\frac{\ln 2}{\ln(2/3)}"),
            (r"\frac{\log 2}{\log 2-\log 3}", r"\log_{2/3} 2"),
            (r"\frac{\log 2}{\log 2-\log 3}", r"-\frac{\log 2}{\log 3-\log 2}"),
            (r"\frac{\log 2}{\log 2-\log 3}", r"\frac{\log 2}{\log\frac23}"),
            (r"\frac{\log 2}{\log 2-\log 3}", r"\frac{\log_{10}2}{\log_{10}2-\log_{10}3}"),
            (r"\frac{\log 2}{\log 2-\log 3}", r"1+\frac{\log 3}{\log 2-\log 3}"),
            # points at which cosh is too large are left out, and the next one is judged alone
            (r"1 + \cosh x", r"\cosh{x} + 1"), (r"\cosh^2 x", r"1 + \sinh^2 x"),
            (r"x=\frac{1}{6} \pi+\pi k, \frac{1}{3} \pi+\pi k, \frac{2}{3} \pi+\pi"
             r" k, \frac{5}{6} \pi+\pi k",
             r"x = \frac{5\pi}{6} + n\pi, \frac{2\pi}{3} + n\pi, \frac{\pi}{6} +"
             r" n\pi, \frac{\pi}{3} + n\pi"),
            (r"x=\frac{1}{6} \pi+\pi k, \frac{1}{3} \pi+\pi k, \frac{2}{3} \pi+\pi"
             r" k, \frac{5}{6} \pi+\pi k",
             r"x = \frac{\pi}{6} + k\pi, \frac{\pi}{3} + k\pi, \frac{2\pi}{3} +"
             r" k\pi, \frac{5\pi}{6} + k\pi, k \in \mathbb{Z}"),
            (r"x=\frac{1}{6} \pi+\pi k, \frac{1}{3} \pi+\pi k, \frac{2}{3} \pi+\pi"
             r" k, \frac{5}{6} \pi+\pi k",
             r"x = \frac{\pi}{6} + k\pi, \frac{\pi}{3} + k\pi, \frac{2\pi}{3} +"
             r" k\pi, \frac{5\pi}{6} + k\pi \quad (k \in \mathbb{Z})"),
            (r"x=\frac{1}{6} \pi+\pi k, \frac{1}{3} \pi+\pi k, \frac{2}{3} \pi+\pi"
             r" k, \frac{5}{6} \pi+\pi k",
             r"x = \frac{\pi}{6} + k\pi \text{ or } x = \frac{\pi}{3} + k\pi \text{"
             r" or } x= \frac{2\pi}{3} + k\pi \text{ or } x= \frac{5\pi}{6} + k\pi"),
        ],
        False: [
            (r"3\sqrt{13}", r"3\sqrt{13} \approx 11.82"), (r"3\sqrt{13}", "10.82"),
            (r"3\sqrt{13}", r"\approx 10.82"), ("18", r"17.9 \approx 18"),
            ("18", r"17 \approx 18"), ("18", r"18 \approx 17"),
            (r"\frac{1}{3}", r"0.333 \approx \frac13"), (r"\sqrt2", r"\sqrt2 \approx 1.414..."),
            ("5", r"x \approx 5"), ("5", "~5"), ("5", r"\sim 5"), ("5", r"5 \pm 0.1"),
            (r"\ln\frac{a}{b}", r"\ln b - \ln a"), (r"\ln(ab)", r"\ln a \ln b"),
            ("x", r"\sqrt{x^2}"), ("x", "|x|"), (r"30p\sqrt p", r"30\sqrt{p^2}"),
            (r"\sqrt{x-5}", r"\sqrt{x+5}"), ("0", r"1-\tanh 1000"), ("1", r"\tanh 1000"),
            ("0", r"\pi - 3.14159265358979323846264338327950288419716939937510"),
            ("1", r"\cos(10^{-60})"), ("18", "18+10^{-100}"), ("1", "1 + e^{-500}"),
            ("2", r"\lfloor \log_2 8 \rfloor"), ("x2", "2x"), ("x^2", "x2"), ("6!=720", "720"),
            (r"\frac{\log 2}{\log 2-\log 3}", r"\frac{\log 2}{\log 3-\log 2}"),
            (r"x=\frac{1}{6} \pi+\pi k, \frac{1}{3} \pi+\pi k, \frac{2}{3} \pi+\pi"
             r" k, \frac{5}{6} \pi+\pi k",
             r"x = \frac{\pi}{6} + 2k\pi, \frac{\pi}{3} + k\pi, \frac{2\pi}{3} +"
             r" k\pi, \frac{5\pi}{6} + k\pi"),
        ],
    },
    "floors, ceilings and factorials at whole numbers": {
        True: [
            (r"\lceil n/2\rceil+1", r"\lfloor (n+1)/2\rfloor+1"),
            (r"\lceil n/2\rceil", r"\frac{2n+1-(-1)^n}{4}"),
            (r"\lfloor\frac{mn}{2}\rfloor", r"\lfloor\frac{nm}{2}\rfloor"),
            (r"mn-\lfloor m/2\rfloor", r"m(n-1)+\lceil m/2\rceil"),
            (r"mn-\lfloor m/2\rfloor", r"mn-\lceil (m-1)/2\rceil"),
            (r"\lfloor\frac{2n-1}{5}\rfloor", r"\lceil\frac{2n-5}{5}\rceil"),
            (r"\lfloor\sqrt{n-1}\rfloor", r"\lceil\sqrt n\rceil-1"),
            (r"\lfloor\log_2 n\rfloor+1", r"\lceil\log_2(n+1)\rceil"),
            (r"\lfloor x\rfloor+\lfloor x+\frac12\rfloor", r"\lfloor 2x\rfloor"),
            (r"\lfloor n/7\rfloor", r"\lceil (n-6)/7\rceil"),
            (r"k+\lfloor n/2\rfloor", r"\lfloor\frac{n+2k}{2}\rfloor"), ("2n", r"2n+\sin(\pi n)"),
            ("1", r"\lceil\frac{1}{1+n^2}\rceil"), ("1", r"\lceil\frac{1}{1+x^2}\rceil"),
            ("n", r"\lfloor n\rfloor"), ("n!", r"\frac{(n+1)!}{n+1}"), ("n!", "n(n-1)!"),
            (r"\binom{n}{2}", r"\frac{n(n-1)}{2}"), (r"\binom{n}{k}", r"\binom{n}{n-k}"),
            (r"\binom{d}{k}\frac{(k-1)!}{2}", r"\frac{d!}{2k(d-k)!}"),
        ],
        False: [
            (r"\lceil n/2\rceil+1", r"\lfloor n/2\rfloor+2"),
            (r"\lceil n/2\rceil+1", r"\lfloor n/2\rfloor+1"),
            (r"\lceil n/2\rceil+1", r"\frac n2+1"),
            (r"\lfloor\frac{mn}{2}\rfloor", r"\lceil\frac{mn}{2}\rceil"),
            (r"mn-\lfloor m/2\rfloor", r"mn-\lceil m/2\rceil+1"),
            (r"\lfloor\frac{2n-1}{5}\rfloor", r"\lceil\frac{2n-1}{5}\rceil-1"),
            (r"\lfloor\sqrt{n-1}\rfloor", r"\lfloor\sqrt n\rfloor"),
            (r"\lfloor\log_2 n\rfloor+1", r"\lceil\log_2 n\rceil"),
            (r"\lfloor x\rfloor", r"\lceil x\rceil-1"),
            (r"\lfloor x+\frac12\rfloor", r"\lceil x-\frac12\rceil"),
            (r"\lfloor n/3\rfloor", r"\lfloor (n+1)/3\rfloor"),
            (r"\lfloor n/7\rfloor", r"\lceil (n-5)/7\rceil"), (r"\lfloor n/100\rfloor", "0"),
            (r"k+\lfloor n/2\rfloor", "k+n"), ("2n", "2n+(n-1)(n-2)(n-3)(n-4)(n-5)"),
            ("2n", "n^2"), ("2n", "2n+(-1)^n"), ("2^k", r"\sqrt{4^k}+\sin^2 k"),
            ("x", r"\lfloor x\rfloor"), ("1", r"\frac{|n|}{n}"),
            ("0", r"\lfloor \frac{n}{n+1} \rfloor"), ("n!", "(n-1)!"),
            (r"\binom{n}{2}", r"\frac{n(n+1)}{2}"), (r"\binom{n}{k}", r"\binom{n}{k+1}"),
        ],
    },
    "choices, words, names and ratios": {
        True: [
            (r"\text{(C)}", "C"), (r"\text{(C)}", "(C) 18"), (r"\text{(C)}", r"\textbf{(C) }18"),
            (r"\text{(C)}", r"\text{C. } 18"), (r"\text{(C)}", "C) 18"), (r"\text{(C)}", "C: 18"),
            (r"\text{(C)}", r"\text{Option C}"), (r"\text{(C)}", r"\text{choice (C)}"),
            (r"\text{(C)}", r"\text{Answer: C}"), (r"\text{(C)}", r"\textbf{(C)} \text{ Plane}"),
            ("27", r"\textbf{(E)}\ 27"), ("27", "(E) 27"), ("1:4", r"\text{(D)}\ 1:4"),
            (r"\text{(E)}", r"E \text{ (Hyperbola)}"), (r"\text{(E)}", r"\text{(E) Hyperbola}"),
            (r"\text{(B)}", r"\textbf{(B)}~3(1+r/10)^x=7"),
            (r"\text{A,B,C,D}", r"\text{A},\text{B},\text{C},\text{D}"),
            (r"\text{B,E}", "B and E"), (r"\text{B,E}", "E, B"),
            (r"\text{ellipse}", r"\text{an ellipse}"),
            (r"\text{ellipse}", r"\text{The graph is an ellipse}"),
            (r"\text{even}", r"f \text{ is even}"), (r"\text{Yes}", r"\text{yes}"),
            (r"\text{4:30 p.m.}", r"\text{4:30 PM}"), (r"\text{4:30 p.m.}", "4:30"),
            ("5:12", r"\frac{5}{12}"), ("3:5", r"3 \text{ to } 5"), ("3:5", "3 to 5"),
            ("3:5", "3{:}5"), ("3:5", "3 : 5"), ("3:5", r"3\!:\!5"), ("3:5", r"\text{3:5}"),
            ("3:5", r"\text{3 to 5}"), ("3:5", "3/5"), (r"\overline{CD}", "CD"),
            (r"\text{CBAD}", "CBAD"),
        ],
        False: [
            (r"\text{(C)}", r"\textbf{(D)} \text{ Plane}"), (r"\text{(C)}", "(C) or (D)"),
            (r"\text{(C)}", "(C), (D)"), (r"\text{(C)}", "C or D"), (r"\text{(C)}", "C, D"),
            (r"\text{(C)}", "not C"), (r"\text{(C)}", "CD"), (r"\text{(C)}", "Circle"),
            (r"\text{(C)}", "c"), ("27", "(E) 28"), ("27", r"\text{E}"), ("27", r"\text{E) }27"),
            (r"\text{A,B,C,D}", "ABCD"),
            (r"\text{ellipse}", r"\text{The graph is not an ellipse}"),
            (r"\text{ellipse}", r"\text{circle}"),
            (r"\text{ellipse}", r"\text{ellipse or circle}"),
            (r"\text{even}", r"\text{neither even nor odd}"), (r"\text{Yes}", r"\text{No}"),
            (r"\text{June 20}", r"\text{20 June}"), (r"\text{June 20}", r"\text{June 20th}"),
            ("9:24", "3:8"), ("3:5", "6:10"), ("3:5", r"5 \text{ to } 3"), ("3:5", "3-5"),
            (r"\overline{CD}", r"\overline{CE}"), (r"\text{CBAD}", "CBDA"),
        ],
    },
    "what a policy under pressure would find": {
        True: [
            ("18", r"18\,\text{dz}"), ("18", "(18)"), ("18", "[18]"),
            ("18", r"\lfloor 18.5 \rfloor"), ("18", "18 : 1"), ("18", "18/1"), ("18", "18 = y"),
            ("2", r"\sqrt{4}"), ("2", r"\sqrt[3]{8}"), ("2", "|{-2}|"), ("n", r"n + \sin(\pi n)"),
            ("n", r"n + \sin(1009 \pi n)"), ("x", r"x + \lfloor x \rfloor - \lfloor x \rfloor"),
            ("x", r"x+\lfloor \sin^2 x/2 \rfloor"), ("x+y", "x+y+|x-y|-|y-x|"),
            ("x", r"(\sqrt{x})^2"), ("x", r"\ln e^x"), ("x", r"e^{\ln x}"),
            ("x", r"\sqrt[3]{x^3}"), ("x^2", r"\sqrt{x^4}"), ("(1,2)", "(1,2)"),
            ("[1,2]", r"1 \le x \le 2"), ("5000000", "5 million"), ("5", r"0.5 \text{ tens}"),
            ("3", r"\text{three}"), ("30", "thirty"), ("13", "thirteen"),
            ("100", r"\text{one hundred}"), ("1000000", r"\text{one million}"), ("1", "one"),
            (r"\text{Monday}", "Monday."), (r"\text{odd}", r"\text{n is odd}"),
            (r"\text{parabola}", r"\text{a parabola}"), ("y=2x", "2y=4x"), (r"\frac{1}{2}", ".5"),
            (r"\frac12", "1/2 = 0.5"), (r"\frac12", r"0.49\overline{9}"),
            (r"\frac12", r"0.4\overline{9}"), (r"\frac13", r"0.3\overline{3}"),
            ("10^{10}", "10000000000"), ("10!", "3628800"), ("2^{10}", "1024"),
            ("2^{100}", "1267650600228229401496703205376"),
            (r"\begin{pmatrix}1\\2\end{pmatrix}", "(1,2)"),
            (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\langle 1,2\rangle"), (r"\$5", r"\$5.00"),
            (r"\$5", "5 dollars"), ("50%", "0.5"), ("50%", "1/2"), ("50%", "50"),
            (r"30^\circ", r"\frac{\pi}{6}"), (r"\frac{\pi}{6}", r"30^\circ"),
            (r"\text{(C)}", r"\text{C}"),
        ],
        False: [
            ("18", r"18 \text{ (not)}"), ("18", r"18 \,\text{NOT}"), ("18", r"\text{NOT }18"),
            ("18", r"18\text{ wrong}"), ("18", "18 dozen"), ("18", r"18 \times 10^6"),
            ("18", "18e6"), ("18", r"18\text{e}6"), ("18", "18 E"),
            ("18", r"\text{the answer is either } 18"), ("18", r"18 \text{ and } 18"),
            ("18", r"18 \land 19"), ("18", r"18 \lor 18"), ("18", "18;18"), ("18", r"\{18\}"),
            ("18", r"\langle 18 \rangle"), ("18", "18:19"), ("18", r"x \to 18"),
            ("18", r"18 \leftarrow x"), ("18", r"x = 18 \text{ or } x = -18"), ("18", "x^2 = 324"),
            ("18", "2x = 36"), ("18", "x - 18 = 0"), ("18", "x + y = 18 + z"),
            ("18", r"x + y \ne 18"), ("18", r"x + y \approx 18"), ("18", "x+y < 19"),
            ("18", "x+y=18, x-y=2"), ("18", "17 + y = 18"), ("18", "y = y = 18"),
            ("18", r"\frac{1}{0} = 18"), ("18", r"\ln 0 = 18"), ("18", r"\log(-1) = 18"),
            ("18", "f(1)=17=18"), ("18", "a+b=17, 18"), ("18", r"a+b=18 \text{ or } 17"),
            ("2", r"\pm\sqrt{4}"), ("-2", r"\sqrt{4}"), ("x", "x + 10^{-40}"),
            ("x", r"x+10^{-40}\sin x"), (r"\sin x", r"\sin x + 10^{-60}"),
            (r"\pi", r"\pi + 10^{-70}"), (r"\pi", r"\pi+e^{-150}"),
            (r"\pi x", r"\pi x + e^{-150}"), (r"\sqrt2 x", r"\sqrt2 x + 10^{-90}"),
            ("e^x", "e^x + e^{-200}"), ("e^x", "e^x+10^{-50}x"), ("1", r"\cos(10^{-40})"),
            ("1", r"\cosh(10^{-50})"), ("0", r"\sin(10^{-80})"), ("0", r"\arctan(10^{-99})"),
            (r"\frac{\pi}{2}", r"\arctan(10^{90})"), ("1", r"\tanh(100)"), ("1", r"\tanh(400)"),
            ("1", r"\coth(50)"), ("0", "e^{-10^6}"), ("0", "e^{-999}"), ("0", "2^{-3000}"),
            ("0", r"\frac{1}{10^{200}}"), ("1", "(1+10^{-300})"), ("0", r"\frac{1}{\cosh(300)}"),
            ("0", r"\ln(1+10^{-99})"), ("1", r"\sqrt{1+10^{-99}}"), ("x", r"x+\sin(\pi x)"),
            ("x", r"x+\sin(\pi x \cdot 1009)"), ("x", r"x + \sin(1009\pi x)"),
            ("x", r"x\cos(2018 \pi x)"), ("x", r"x+\lfloor \frac{x}{10^9} \rfloor"),
            ("x", r"x + \lfloor \frac{x^2}{10^9} \rfloor"),
            ("n", r"n+\lfloor \frac{n}{10^4}\rfloor"), ("n", r"n+\lfloor \frac{|n|}{10^4}\rfloor"),
            ("x", r"\max(x,0)"), ("n!", r"n!+\prod_{k=0}^{40}(n-k)"),
            ("2^n", r"2^n+\lfloor 2^{-n}\rfloor"), ("n", r"n + \lfloor \frac{1}{n^2+1} \rfloor"),
            ("x+y", r"\sqrt{(x+y)^2}"), ("xy", r"\sqrt{x^2y^2}"),
            ("x^2", r"x^2 \cdot \frac{|x|}{x}"), ("x", r"\arcsin(\sin x)"),
            ("x", r"\sqrt[4]{x^4}"), ("x^3", r"\sqrt{x^6}"), ("(1,2)", r"(1,2) \text{ or } (2,1)"),
            ("(1,2)", "[1,2]"), ("(1,2)", r"\{1,2\}"), ("(1,2)", "(1, 2, )"),
            ("1,2", r"1 \text{ to } 2"), ("1:2", "1,2"), (r"5 \text{ m}", r"5 \text{ cm}"),
            (r"5 \text{ m}", r"500 \text{ cm}"), (r"5 \text{ kg}", r"5 \text{ g}"),
            (r"5\text{ hours}", r"5\text{ days}"),
            (r"5\text{ dollars}", r"5 \text{ dollars per hour}"),
            (r"5 \text{ m}", r"5 \text{ m}^2"), (r"5 \text{ feet}", "5'"),
            ("5", r"5\text{ million}"), ("5", "5 million"), ("3", r"\text{three or four}"),
            ("3", r"\text{thirty}"), ("105", r"\text{one hundred five}"),
            ("1", r"\text{one of them}"), ("2", r"\text{two lines}"),
            (r"\text{east}", r"\text{northeast}"), (r"\text{east}", r"\text{east or west}"),
            (r"\text{Monday}", r"\text{Tuesday}"), (r"\text{Monday}", r"\text{on Monday}"),
            (r"\text{yes}", r"\text{yes, but no}"), (r"\text{true}", r"\text{false}"),
            (r"\text{odd}", r"\text{not odd}"), (r"\text{odd}", r"\text{it is odd or even}"),
            (r"\text{parabola}", r"\text{the parabola is not right}"), ("f(x)=x", "f(x)=-x"),
            ("f(x)=x", "f(y)=x"), ("f(x)=x", "f(x)=y"), ("f(x)=x", r"f(x)=x \text{ or } -x"),
            ("f(x)=x", "f(x) = x, f(x)=1"), ("x=5", "x=5, y=3"), ("x=5", "x=5,6"),
            ("x=5", r"x \in \{5\}"), ("x=5", r"x \le 5"), ("y=2x+3", r"y=2x+3+\epsilon"),
            ("y=2x", "y^2=4x^2"), ("y=2x", "(y-2x)^2=0"), ("x^2+y^2=1", "(x^2+y^2-1)^2=0"),
            ("x^2+y^2=1", "x^2+y^2=1, x=0"), (r"\frac12", "1/2 = 0.4"),
            (r"\frac13", "0.333333333333333333333"),
            ("2^{100}", "1267650600228229401496703205377"),
            (r"\begin{pmatrix}1\\2\end{pmatrix}", "1,2"),
            (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{pmatrix}1&2&3&4\end{pmatrix}"),
            (r"\$5", r"5\text{ cents}"), (r"\$0.50", r"50 \text{ cents}"), ("50%", "5"),
            ("50%", r"500\%"), (r"30^\circ", r"\frac{\pi}{6} \text{ rad}"),
            (r"30^\circ", r"30 \text{ rad}"), (r"\frac{\pi}{6}", "30"),
            (r"\text{(C)}", r"\text{(C) or (D)}"), (r"\text{(C)}", "(C) is wrong"),
            (r"\text{(C)}", "C is not correct"), (r"\text{(C)}", r"\text{(C), (D)}"),
            (r"\text{(C)}", "A, B, C"), (r"\text{(C)}", r"\text{(A) no, (C)}"),
        ],
    },
    "other spellings of golds of MATH, AIME and OlympiadBench, and their neighbours": {
        True: [
            ("113", r"\mathbf{113}"), ("113", "p = 113"), ("113", r"\text{Therefore } m+n=113"),
            ("113", "25+88=113"), ("113", "113=25+88"), ("204", r"204 \text{ minutes}"),
            ("204", "204 min"), ("204", "t = 204"), ("204", r"\text{Time} = 204 \text{ minutes}"),
            (r"\frac{14}{3}", r"4\frac{2}{3}"), (r"\frac{14}{3}", r"4 \tfrac23"),
            (r"\frac{14}{3}", r"4.\overline{6}"), (r"\frac{14}{3}", r"\frac{14}{3} \approx 4.67"),
            (r"\frac{14}{3}", r"\frac{14}{3} = 4\frac{2}{3}"), (r"\frac{14}{3}", r"14 \div 3"),
            (r"\frac{14}{3}", "14:3"), (r"\frac{14}{3}", "(14)/(3)"),
            (r"\frac{14}{3}", r"\frac{28}{6}"), (r"\frac{14}{3}", r"\left. \frac{14}{3} \right."),
            (r"3\sqrt{13}", r"3 \sqrt {13}"), (r"3\sqrt{13}", "3*sqrt(13)"),
            (r"3\sqrt{13}", r"3\sqrt{13} \text{ units}"), (r"3\sqrt{13}", r"\sqrt{9 \cdot 13}"),
            (r"3\sqrt{13}", "3(13)^{1/2}"), (r"3\sqrt{13}", r"3 \cdot 13^{0.5}"),
            (r"3\sqrt{13}", r"\sqrt{13}\cdot 3"), (r"3\sqrt{13}", r"\frac{39}{\sqrt{13}}"),
            (r"2-\sqrt{3}", r"\tan 15^\circ"), (r"2-\sqrt{3}", r"\frac{1}{2+\sqrt3}"),
            (r"2-\sqrt{3}", r"-\sqrt{3}+2"), (r"2-\sqrt{3}", r"\tan\frac{\pi}{12}"),
            (r"1+2\sqrt{3}", r"\sqrt{13+4\sqrt{3}}"), (r"5 \sqrt[3]{4}", r"\sqrt[3]{500}"),
            (r"5 \sqrt[3]{4}", r"5 \cdot 2^{2/3}"), (r"288 \pi", r"288\pi \text{ cm}^3"),
            (r"288 \pi", "288 pi"), (r"288 \pi", "288*pi"), (r"288 \pi", r"V = 288\pi"),
            (r"288 \pi", r"\pi \cdot 288"), (r"288 \pi", r"288 \text{ pi}"),
            (r"18+2\pi", r"2\pi + 18"), ("6 - 5i", "6 + (-5)i"), ("6 - 5i", r"6 - 5\mathrm{i}"),
            ("6 - 5i", "6-5 i"), ("6 - 5i", "z = 6-5i"), ("6 - 5i", "-i(5+6i)"),
            ("x^5 - x^4 + x^3 - x^2 + x - 1", "(x-1)(x^2+x+1)(x^2-x+1)"),
            ("x^5 - x^4 + x^3 - x^2 + x - 1", "P(x)=x^5 - x^4 + x^3 - x^2 + x - 1"),
            ("6r^2-4r-24", "2(3r^2-2r-12)"), ("6r^2-4r-24", "6r^2 - 4r - 24."),
            (r"\frac{c}{a}", r"c \div a"), (r"\frac{c}{a}", "a^{-1}c"),
            (r"\frac{c}{a}", "ca^{-1}"), (r"\frac{c}{a}", "c : a"),
            (r"\frac{11+9a}{20}", "0.45a+0.55"), ("2^{2008} -2", "2(2^{2007}-1)"),
            ("3^x - 2^x", "-(2^x-3^x)"), ("2^{k-n}", r"\frac{2^k}{2^n}"),
            ("2^{k-n}", r"\left(\frac12\right)^{n-k}"), ("2^{1009}", r"2 \cdot 4^{504}"),
            ("10^{100},10^{1 / 100}", "10^{0.01}, 10^{100}"),
            ("(10^{4}, 10^{3}, 10^{10}),(10^{2}, 10^{-1}, 10^{-2})",
             "(10000, 1000, 10^{10}), (100, 0.1, 0.01)"),
            (r"\frac{100!}{2^{50}}", "100!/2^{50}"),
            (r"\frac{100!}{2^{50}}", r"100! \cdot 2^{-50}"),
            (r"2021 \cdot 505 \cdot 337", r"2021 \times 505 \times 337"),
            ("y = 2x + 3", r"y=2x+3, x \in \mathbb{R}"), ("y = 2x + 3", "f(x) = 2x+3"),
            ("y = 2x + 3", "y - 3 = 2x"), ("y = 2x + 3", r"x = \frac{y-3}{2}"),
            ("y = 2x + 3", "2x+3-y=0"), ("x^2 + y^2 = 13", "x^2=13-y^2"),
            (r"\tan \theta = 2\theta", r"\theta=\frac12\tan\theta"),
            ("(6,31,-1)", "(p,q,r) = (6,31,-1)"), ("(6,31,-1)", "(6, 31, -1)."),
            ("(6,31,-1)", r"\left(6, 31, -1\right)"),
            ("(6,31,-1)", r"p=6 \text{, } q=31 \text{, and } r=-1"),
            ("(6,31,-1)", "p=6, r=-1, q=31"), ("(-2,1)", "x=-2,y=1"), ("(-2,1)", "(x,y)=(-2,1)"),
            ("(-2,1)", "(-2;1)"), ("(1,1), (3,2)", r"(1,1) \text{ or } (3,2)"),
            ("(1,1), (3,2)", "(3,2), (1,1)"), ("(1,1), (3,2)", r"\{(1,1),(3,2)\}"),
            ("(1,1), (3,2)", "(x,y) = (1,1), (3,2)"),
            ("(1,1), (3,2)", r"(x,y) = (1,1) \text{ or } (x,y) = (3,2)"),
            ("(1,1), (3,2)", r"(x,y) \in \{(1,1),(3,2)\}"),
            ("(0,2),(0,-2),(4,23),(4,-23)", r"(0,\pm 2), (4,\pm 23)"), ("3, 5, 7", "3,5,7"),
            ("3, 5, 7", "7, 5, 3"), ("3, 5, 7", r"\{3,5,7\}"), ("3, 5, 7", "x=3, x=5, x=7"),
            ("3, 5, 7", r"x \in \{3,5,7\}"), ("3, 5, 7", r"3 \text{ and } 5 \text{ and } 7"),
            ("3, 5, 7", "3; 5; 7"), ("3, 5, 7", r"p = 3, 5, \text{ or } 7"),
            ("1,-2", r"1 \text{ or } -2"), ("1,-2", r"x=1 \text{ or } x=-2"),
            ("1,-2", "x = 1, -2"), ("1,-2", r"-2 \text{ and } 1"), ("1,-2", "x_1=1,x_2=-2"),
            (r"1 \pm \sqrt{19}", r"1 + \sqrt{19} \text{ and } 1 - \sqrt{19}"),
            (r"1 \pm \sqrt{19}", r"\{1-\sqrt{19}, 1+\sqrt{19}\}"),
            (r"1 \pm \sqrt{19}", r"\frac{2 \pm \sqrt{76}}{2}"),
            (r"1 \pm \sqrt{19}", r"\pm\sqrt{19}+1"), (r"\{1\pm\sqrt{5},-2\}", r"-2, 1 \pm \sqrt5"),
            (r"\{1\pm\sqrt{5},-2\}", r"x \in \{-2, 1+\sqrt5, 1-\sqrt5\}"),
            (r"(2,\infty)", r"x \in (2, \infty)"), (r"(2,\infty)", "2 < x"),
            (r"(2,\infty)", r"\{x : x > 2\}"), (r"(2,\infty)", r"\{x \in \mathbb{R} : x > 2\}"),
            (r"(2,\infty)", r"]2,\infty["), (r"(2,\infty)", r"]2,+\infty)"),
            ("(3,4]", r"3 < \lambda \le 4"), ("(3,4]", r"3<x\leq4"), ("(3,4]", "]3,4]"),
            ("(3,4]", r"x > 3 \text{ and } x \le 4"), (r"x \in [-2,7]", r"-2 \leq x \leq 7"),
            (r"-80\leq g(x)\leq 82", r"-80 \le g(x) \le 82"),
            (r"-80\leq g(x)\leq 82", r"82 \ge g(x) \ge -80"),
            (r"-80\leq g(x)\leq 82", r"g(x) \in [-80,82]"), (r"-80\leq g(x)\leq 82", "[-80, 82]"),
            (r"(0,9) \cup (9,36)", r"x \in (0,9) \cup (9,36)"),
            (r"(0,9) \cup (9,36)", r"0<x<9 \text{ or } 9<x<36"), ("4210_{5}", "4210_5"),
            ("4210_{5}", "(4210)_{5}"), ("4210_{5}", r"4210 \text{ (base 5)}"),
            ("152A_{11}", r"152\text{A}_{11}"), ("152A_{11}", "(152A)_{11}"),
            ("0.0011_{2}", "0.0011_2"), ("0.0011_{2}", "0.1875"), (r"137 \frac{1}{2}", "137 1/2"),
            (r"137 \frac{1}{2}", r"137\tfrac12"), (r"137 \frac{1}{2}", r"137.5 \text{ degrees}"),
            (r"137 \frac{1}{2}", r"\frac{275}{2}"), (r"137 \frac{1}{2}", "137½"),
            (".0000672", r"6.72 \times 10^{-5}"), (".0000672", r"6.72 \cdot 10^{-5}"),
            (".0000672", "6.72e-05"), (".0000672", "6.72E-5"),
            (".0000672", r"0.672 \times 10^{-4}"), (".0000672", "6.72 * 10^-5"),
            (".0000672", "6.72 × 10⁻⁵"), (r"\text{June 20}", "June 20"),
            (r"\text{June 20}", r"\text{June 20.}"), (r"\text{4:30 p.m.}", r"\text{4:30 pm}"),
            (r"1\text{:}03 \text{ PM}", "1:03 PM"), (r"\text{Evelyn}", r"\text{It is Evelyn}"),
            (r"\text{Evelyn}", r"\text{Answer: Evelyn}"), (r"\text{Evelyn}", "EVELYN"),
            (r"\text{Evelyn}", r"\mathrm{Evelyn}"), (r"\text{neither}", r"\text{Neither}"),
            (r"\text{Softball, Kickball, Picnic}",
             r"\text{Softball}, \text{Kickball}, \text{Picnic}"),
            (r"\text{Softball, Kickball, Picnic}", r"\text{Picnic, Kickball, Softball}"),
            (r"\begin{pmatrix} -2 \\ -14 \\ -7 \end{pmatrix}",
             r"\begin{bmatrix} -2 \\ -14 \\ -7 \end{bmatrix}"),
            (r"\begin{pmatrix} -2 \\ -14 \\ -7 \end{pmatrix}", "(-2,-14,-7)"),
            (r"\begin{pmatrix} -2 \\ -14 \\ -7 \end{pmatrix}", r"\langle -2,-14,-7 \rangle"),
            (r"\begin{pmatrix} -2 \\ -14 \\ -7 \end{pmatrix}",
             r"-\begin{pmatrix} 2 \\ 14 \\ 7 \end{pmatrix}"),
            (r"\begin{pmatrix} -2 \\ -14 \\ -7 \end{pmatrix}",
             r"\left(\begin{matrix}-2\\-14\\-7\end{matrix}\right)"),
            (r"\begin{pmatrix} -1/3 \\ 2/3 \\ 5/3 \end{pmatrix}",
             r"\frac13\begin{pmatrix}-1\\2\\5\end{pmatrix}"),
            (r"\begin{pmatrix} -1 & 0 \\ 0 & -1 \end{pmatrix}",
             r"\begin{bmatrix} -1 & 0 \\ 0 & -1 \end{bmatrix}"),
            (r"\begin{pmatrix} -1 & 0 \\ 0 & -1 \end{pmatrix}",
             r"-\begin{pmatrix} 1 & 0 \\ 0 & 1 \end{pmatrix}"),
            (r"\begin{pmatrix} -1 & 0 \\ 0 & -1 \end{pmatrix}",
             r"A = \begin{pmatrix} -1 & 0 \\ 0 & -1 \end{pmatrix}"),
            ("62.5%", r"62.5\,\%"), ("62.5%", "62.5 percent"), ("62.5%", r"\frac{125}{2}\%"),
            ("62.5%", "0.625"), ("62.5%", "5/8"), (r"8 \%", "8%"), (r"8 \%", "0.08"),
            ("17.5%", r"17\frac12\%"), ("17.5%", "17.5"), (r"0.56 = 56\%", r"56\%"),
            (r"0.56 = 56\%", "0.56"), (r"0.56 = 56\%", "56"), (r"\$18.90", r"\$18.90"),
            (r"\$18.90", r"18.90\text{ USD}"), (r"\$18.90", "USD 18.9"),
            (r"\$18.90", r"\text{\$18.90}"), (r"\$32,\!348", r"\$32348"),
            (r"\$32,\!348", r"32,348 \text{ dollars}"), (r"\$32,\!348", "USD 32,348"),
            (r"5.4 \text{ cents}", r"5.4\text{ ¢}"), (r"2 \text{ euros}", r"2 \text{ EUR}"),
            (r"2 \text{ euros}", r"\text{€}2"), ("36", r"\$36.00"), ("36", r"36 \text{ bucks}"),
            (r"20,\!000,\!000", "20000000"), (r"20,\!000,\!000", r"2\cdot10^7"),
            (r"20,\!000,\!000", r"20\,000\,000"), (r"20,\!000,\!000", "20 million dollars"),
            (r"20,\!000,\!000", r"\text{twenty million}"), ("25000", "25 thousand"),
            ("25000", "25{,}000"), (r"11,\! 111,\! 111,\! 100", "11,111,111,100"),
            (r"11,\! 111,\! 111,\! 100", r"11\,111\,111\,100"), ("84", r"84^\circ"),
            ("84", r"84^\circ\text{F}"), ("84", r"84 \text{ degrees}"), ("84", r"84\degree F"),
            ("84", "84℉"), ("-3", r"-3^\circ C"), ("-3", r"-3 \text{ degrees}"), ("-3", "-3℃"),
            ("-3", r"-3^\circ"), (r"-5^\circ", "-5"), (r"-5^\circ", r"-5 \text{ degrees}"),
            (r"106^\circ", "106"), (r"106^\circ", r"106 \text{ degrees}"),
            (r"106^\circ", r"\angle AHB = 106^\circ"), (r"106^\circ", r"\angle AHB=106"),
            (r"106^\circ", "106°"), (r"90^{\circ},60^{\circ}", r"60^\circ, 90^\circ"),
            (r"90^{\circ},60^{\circ}", "90, 60"),
            (r"\angle B E A_{1}=90,\angle A E B_{1}=90",
             r"\angle BEA_1 = 90^\circ, \angle AEB_1 = 90^\circ"),
            (r"(45^{\circ}, 60^{\circ}),(135^{\circ}, 60^{\circ})", "(135,60),(45,60)"),
            (r"\cot x", r"\frac{\cos x}{\sin x}"), (r"\cot x", r"\cot(x)"),
            (r"\cot x", r"1/\tan(x)"), (r"2 \sin 5x \cos x", r"\sin(6x)+\sin(4x)"),
            (r"2 \sin 5x \cos x", r"2\cos x \sin 5x"), (r"\tan \frac{x}{2}", r"\csc x - \cot x"),
            (r"\cos^2\alpha", r"1-\sin^2\alpha"), (r"\cos^2\alpha", r"(\cos\alpha)^2"),
            (r"2\cos 15^{\circ}", r"2\cos\frac{\pi}{12}"),
            (r"2\cos 15^{\circ}", r"\sqrt{2+\sqrt3}"), (r"-\frac{\pi}{6}", r"-30^\circ"),
            (r"3 \sec \frac{1}{2} \theta", r"3\sec(\theta/2)"),
        ],
        False: [
            ("113", r"m+n \equiv 113 \pmod{1000}"), ("113", "m=25, n=88, m+n=113"),
            ("204", r"3 \text{ hours } 24 \text{ minutes}"), (r"\frac{14}{3}", "4.67"),
            (r"\frac{14}{3}", r"\frac{14}{3} \text{ or } 4\frac{2}{3}"),
            (r"3\sqrt{13}", r"3\sqrt{13}i"), (r"3\sqrt{13}", r"\pm 3\sqrt{13}"),
            (r"288 \pi", "288"), (r"288 \pi", r"288 \times 3.14159"), ("6 - 5i", "6 - 5j"),
            ("6 - 5i", "5i - 6"), ("6r^2-4r-24", "6x^2-4x-24"), (r"\frac{c}{a}", "a/c"),
            ("2^{2008} -2", "2^{2008}"), ("2^{k-n}", "2^{n-k}"),
            (r"2021 \cdot 505 \cdot 337", "343944"), ("y = 2x + 3", r"\text{the line } y=2x+3"),
            ("y = 2x + 3", "y=2x"), ("5x - 7y + 11z + 4 = 0", "5x-7y+11z=4"),
            ("x^2 + y^2 = 13", r"y=\pm\sqrt{13-x^2}"), ("(6,31,-1)", "q=6,p=31,r=-1"),
            ("(6,31,-1)", r"\{6,31,-1\}"), ("(6,31,-1)", "6;31;-1"), ("(-2,1)", "(-2|1)"),
            ("(-2,1)", "A(-2,1)"), ("(-2,1)", "-2+i"),
            ("(1,1), (3,2)", r"x=1,y=1 \text{ or } x=3,y=2"),
            ("(1,1), (3,2)", "(1,1),(3,2),(2,3)"),
            ("(3,2),(-3,2),(3,-2),(-3,-2)", r"(\pm 3, \pm 2)"), ("3, 5, 7", "3 5 7"),
            ("3, 5, 7", "(3,5,7)"), ("3, 5, 7", "357"), ("1,-2", "1, 2"), ("1,-2", "-1, 2"),
            (r"1 \pm \sqrt{19}", r"-1 \pm \sqrt{19}"), (r"(2,\infty)", r"x \ge 3"),
            ("(3,4]", r"3 \le x < 4"), (r"x \in [-2,7]", r"|x - 2.5| \le 4.5"),
            (r"-80\leq g(x)\leq 82", "-80 < g(x) < 82"), (r"k \geqslant 2", r"k=2,3,4,\dots"),
            (r"k \geqslant 2", r"k \in \{2,3,\ldots\}"), (r"(0,9) \cup (9,36)", r"(0,36) - \{9\}"),
            ("4210_{5}", r"4210_{\text{base }5}"), ("152A_{11}", "1 5 2 A_{11}"),
            (r"137 \frac{1}{2}", r"137 \text{ and } \frac12"),
            (".0000672", r"6.72 \times 10^{-4}"), (".0000672", r"6.72\times10-5"),
            (r"\text{June 20}", r"\text{20th of June}"), (r"\text{June 20}", r"\text{July 20}"),
            (r"\text{4:30 p.m.}", "16:30"), (r"\text{Evelyn}", r"\text{Evelyn is the fastest}"),
            (r"\text{Evelyn}", "E"), (r"\text{neither}", r"\text{neither even nor odd}"),
            (r"\text{two lines}", r"\text{two straight lines}"), (r"\text{CBAD}", "C, B, A, D"),
            (r"\text{CBAD}", r"\text{C-B-A-D}"),
            (r"\begin{pmatrix} -2 \\ -14 \\ -7 \end{pmatrix}",
             r"-2\mathbf{i}-14\mathbf{j}-7\mathbf{k}"),
            (r"\begin{pmatrix} -1 & 0 \\ 0 & -1 \end{pmatrix}", "-I"), ("62.5%", r"62\%"),
            (r"\$18.90", r"18 \text{ dollars and } 90 \text{ cents}"),
            (r"\$18.90", r"1890 \text{ cents}"), (r"5.4 \text{ cents}", r"\$0.054"),
            (r"20,\!000,\!000", r"200 \text{ million}"), ("25000", r"25\text{k}"),
            ("84", r"29^\circ C"), ("-3", r"3 \text{ degrees below zero}"),
            (r"-5^\circ", r"5^\circ"), (r"106^\circ", r"74^\circ"),
            (r"90^{\circ},60^{\circ}", r"90^\circ, 30^\circ"),
            (r"\angle B E A_{1}=90,\angle A E B_{1}=90", r"\angle BEA_1 = \angle AEB_1 = 90^\circ"),
            (r"\cot x", r"\tan x"), (r"-\frac{\pi}{6}", r"\frac{11\pi}{6}"),
        ],
    },
}  # fmt: skip

# Of the answer alone: m + n = 113 answers 113, but 113 does not answer m + n = 113.
ONE_WAY = {
    True: [
        ("113", "m+n=113"), ("113", "m + n = 25 + 88 = 113"), ("113", "p+q = 113"),
        ("259", "a+b+c+d = 259"), ("8", "x^2+y^2 = 8"), ("9", "|z|^2 = 9"), ("9", "|z|=9"),
        (r"\frac{8}{15}", r"\tan A = \frac{8}{15}"),
        (r"\frac{8}{15}", r"\sin\theta = \frac{8}{15}"), ("12", r"\gcd(a,b)=12"),
        (r"\frac{1}{2}", r"P(A \cup B)=\frac12"), (r"\frac{1}{2}", r"P(X>2)=\frac12"),
        (r"\sqrt{51}", r"|DE| = \sqrt{51}"), ("5", "|AB| = 5"), ("25", "AB^2 = 25"),
        ("25", "BC^2 = 25"), ("10", "x_1+x_2 = 10"), ("7", r"\frac{a}{b} = 7"),
        ("7", r"\frac{m+n}{k} = 7"), ("7", "a^2+b^2+c^2=7"), ("7", "100a+10b+c = 7"),
        ("7", r"\log_x y = 7"), ("18", "18 = m+n"), ("7", "n^2 + m = 7"), ("18", "x+y-z=18"),
        ("18", r"\sin x = 18"), ("113", r"m+n=\boxed{113}"), ("113", "m + n = 113."),
        ("113", "m+n = 25+88=113"), ("113", r"\text{m+n} = 113"),
        ("113", r"m + n \text{ is } 113"), ("113", r"m+n=\mathbf{113}"), ("113", "(m+n)=113"),
        ("113", r"m + n = 113 \text{ (answer)}"),
    ],
    False: [
        ("x^2+y^2=8", "8"),
    ],
}  # fmt: skip


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


@pytest.mark.parametrize("rule", RULES)
def test_rules(rule):
    """Models write it so and are refused, or a policy writes it so and is rewarded for nothing."""
    wrong = []
    for expected, rows in RULES[rule].items():
        for gold, answer in rows:
            for a, b in ((answer, gold), (gold, answer)):
                if equal(a, b) != expected:
                    wrong.append((a, b, f"wanted {expected}"))
    assert not wrong


def test_an_answer_may_state_what_was_asked_and_its_value():
    """One in three of AIME's answers is refused, since the model boxes m + n = 113; or a circle is
    answered by the square of its radius."""
    for expected, rows in ONE_WAY.items():
        assert not [(gold, answer) for gold, answer in rows if equal(answer, gold) != expected]


UNIVERSAL = ["x", "n", "x = x", "1 = 1", "0 = 0", r"\pm", r"\pm 1", "{}", "()", "[]", "?", "..."]
UNIVERSAL += [r"\text{answer}", r"\text{all}", r"\mathbb{R}", r"x \in \mathbb{R}", r"\infty", "C"]
UNIVERSAL += [r"\frac{0}{0}", "0^0", r"x \ne x", r"x \le x", "f(x) = f(x)", "(x, y)", r"\{x\}"]
UNIVERSAL += [r"\emptyset", "y = y", r"\frac{x}{x}", r"\text{see above}", r"\text{(A) or (B)}"]
UNIVERSAL += [r"\%", r"\$", r"\text{cm}", r"\text{is}", "=", r"\log", r"\text{A, B, C, D}", "a=b"]


def test_no_answer_passes_for_many_golds():
    """A policy finds one string that is right whatever is asked."""
    golds = sorted({gold for rows in CASES.values() for gold, *_ in rows})
    for answer in UNIVERSAL:
        won = [gold for gold in golds if equal(answer, gold)]
        assert all(equal(a, b) for a in won for b in won), (answer, won)


def test_points_are_spread_over_signs_residues_and_sizes():
    """Two symbols always have the same sign or parity, and an expression that is equal only there
    is accepted."""
    names = ["a", "b", "c"]
    rational = [equivalence.point(names, k) for k in range(equivalence.POINTS)]
    for one, other in (("a", "b"), ("b", "c"), ("a", "c")):
        signs = {(env[one][1] > 0, env[other][1] > 0) for env in rational}
        assert len(signs) >= 3
        whole = [equivalence.point(names, k, "whole") for k in range(equivalence.MAX_POINTS)]
        values = [(int(env[one][1]), int(env[other][1])) for env in whole]
        assert len({(x % 2, y % 2) for x, y in values}) == 4
        assert len({(x % 3, y % 3) for x, y in values}) >= 6
        assert {-1, 0, 1, 2} <= {x for x, _ in values} and max(x for x, _ in values) > 10**5
    assert len({env[name][1].denominator for env in rational for name in names}) > 15


# ---- Properties ----------------------------------------------------------------------------------
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


# ---- Hostile input -------------------------------------------------------------------------------
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

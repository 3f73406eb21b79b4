// Formulas as HTML: reads [[tex, display], ...] from standard input, writes their HTML, in order; null for a formula
// that KaTeX cannot read. Both are JSON.
import { readFileSync } from "node:fs";
import katex from "katex";

const render = ([tex, displayMode]) => {
  try {
    return katex.renderToString(tex, { displayMode });
  } catch (error) {
    if (error instanceof katex.ParseError) return null;
    throw error;
  }
};

const formulas = JSON.parse(readFileSync(0, "utf8"));
process.stdout.write(JSON.stringify(formulas.map(render)));

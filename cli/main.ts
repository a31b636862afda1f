#!/usr/bin/env node
// Two steps: what is loaded after the first is compiled once, and kept.
import './compile-cache.mjs'

await import('./program.ts')

#!/usr/bin/env node
// Two steps: what is loaded after the first is compiled once, and kept.
import { keepCompiled } from './compile-cache.ts'

keepCompiled()
await import('./program.ts')

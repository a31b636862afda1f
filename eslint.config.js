import stylistic from '@stylistic/eslint-plugin'
import tseslint from 'typescript-eslint'

const noClocks = ['Date.now', 'performance.now', 'Math.random', 'crypto.randomUUID', 'process.hrtime']

export default tseslint.config(
  { ignores: ['node_modules/', '.tap/', '.cache/', 'dist/', 'protocol/wire/gen/', '**/*.cjs', 'eslint.config.js'] },
  {
    files: ['**/*.ts'],
    extends: [...tseslint.configs.strictTypeChecked],
    languageOptions: { parserOptions: { projectService: true, tsconfigRootDir: import.meta.dirname } },
    plugins: { '@stylistic': stylistic },
    rules: {
      '@stylistic/indent': ['error', 2, { SwitchCase: 1, flatTernaryExpressions: true, ignoredNodes: ['ConditionalExpression *', 'TSConditionalType *', 'TSUnionType *'] }],
      '@stylistic/quotes': ['error', 'single', { avoidEscape: true }],
      '@stylistic/semi': ['error', 'never'],
      '@stylistic/comma-dangle': ['error', 'never'],
      '@stylistic/space-before-function-paren': ['error', 'always'],
      '@stylistic/no-trailing-spaces': 'error',
      '@stylistic/eol-last': 'error',
      '@stylistic/no-multiple-empty-lines': ['error', { max: 1, maxEOF: 0 }],
      'max-lines': ['error', { max: 450, skipBlankLines: true, skipComments: true }],
      // numbers and booleans in messages are what messages are for
      '@typescript-eslint/restrict-template-expressions': ['error', { allowNumber: true, allowBoolean: true }],
      // `() => doIt()` for effects is our style for small callbacks
      '@typescript-eslint/no-confusing-void-expression': ['error', { ignoreArrowShorthand: true }],
      // a closed union is still checked at borders where data comes from outside
      '@typescript-eslint/no-unnecessary-condition': ['error', { allowConstantLoopConditions: true }],
      'no-restricted-imports': ['error', { patterns: [{ regex: '^(node:)?child_process$', message: 'child processes start in agent/exec.ts, agent/services/ and the entry points listed in eslint.config.js' }] }]
    }
  },
  {
    files: ['protocol/core/**/*.ts'],
    rules: {
      'no-restricted-syntax': ['error', ...noClocks.map(name => {
        const [object, property] = name.split('.')
        return { selector: `MemberExpression[object.name='${object}'][property.name='${property}']`, message: `${name}: time and chance are arguments in protocol/core` }
      }), { selector: "NewExpression[callee.name='Date'][arguments.length=0]", message: 'time is an argument in protocol/core' }],
      'no-restricted-imports': ['error', { patterns: [{ regex: '^node:', message: 'protocol/core is pure: no node imports' }] }]
    }
  },
  {
    // the doors to child processes: services outlive the agent, the CLI hands the terminal over, tests and lab start processes to kill them
    files: ['agent/exec.ts', 'agent/services/**/*.ts', 'cli/commands/cluster.ts', 'cli/commands/segment.ts', 'lab/**/*.ts', 'test/**/*.ts', 'protocol/wire/generate.ts'],
    rules: { 'no-restricted-imports': 'off' }
  },
  {
    files: ['test/**/*.ts'],
    rules: {
      // tap's t.test returns a promise that the runner itself awaits
      '@typescript-eslint/no-floating-promises': 'off',
      '@typescript-eslint/no-non-null-assertion': 'off'
    }
  }
)

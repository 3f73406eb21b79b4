"""Grade a class: each student's functions run in a sandbox, and are judged outside of it.

``python -m lora_edu.classroom.grade FOLDER``

The parent holds the exercises: cases, solutions, laws, hints, and the comparison (`checks.examine`). The child holds
the student's functions, and no exercise. `remote` gives `examine` a function that asks the child; `classroom.wire`
says how values cross. Whatever a student's code does to its own process, it can only answer, and an answer is right
or is not. Where it is a test, the functions that it judges stay in the parent (`classroom.candidates`), and the child
asks for their results.

    ``course``   what each exercise asks for, read off the notebooks
    ``hand_in``  which notebooks a student handed in, with limits on what is opened
    ``sandbox``  which sandbox this machine has; a child process in it
    ``remote``   a student's function as the parent sees it
    ``marks``    a student, exercise by exercise
    ``report``   grades.csv and grades.html

In the child, where nothing can be trusted once the student's code has run:

    ``runner``   answers the parent's calls
    ``cells``    finds in a notebook the statements that define a function
    ``guards``   gives up files, network, processes and memory for good
"""
